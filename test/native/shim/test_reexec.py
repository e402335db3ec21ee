import unittest

from case import *


class Reexec(ShimCase):
    def setUp(self):
        super().setUp()
        self.newer = sealed(variant("next", "-DPROTOCOL_VERSION_OVERRIDE=3", build="the-next-build"))
        self.addCleanup(os.close, self.newer)

    def reexec(self, client=None):
        client = client or self.client
        client.ask("reexec", fds=(self.newer,))
        with self.assertRaises(Gone):
            client.receive(5)
        self.client = self.shim.client()
        self.addCleanup(self.client.close)

    def test_the_same_process_becomes_the_newer_binary_and_its_containers_run_on(self):
        path, go = self.log(), f"{self.shim.path}/go"
        os.mkfifo(go)
        group = self.cgroup("freezer")
        program = init_plan("/bin/sh", "-c", f"echo before; printf 'unfin'; printf 'err' >&2; cat {go}; echo ished; echo or >&2; sleep 0.1; exit 11", before=in_cgroup(group))
        self.client.create("c", program, log=path, kill=[group])
        started = self.client.start("c")
        pid = self.client.states()["c"].pid
        wait_for(lambda: os.path.exists(path) and len(self.texts(path)) == 1)
        before = self.client.states()["c"]
        self.reexec()
        self.assertEqual((self.client.hello.build, self.client.hello.pid, self.client.hello.protocol), ("the-next-build", self.shim.pid, 3))
        self.assertIn('"build":"the-next-build"', open(f"{self.shim.path}/shim.json").read())
        after = self.client.states()["c"]
        before.request = after.request
        self.assertEqual(vars(after), vars(before))
        self.assertEqual(self.shim.children(), [pid])
        ended, output = self.client.exec_output("c", "e", "/bin/echo", "still here")
        self.assertEqual((ended.status, output), (0, "still here\n"))
        open(go, "w").close()
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.started_at_ns, ended.log_dropped_bytes), (11 << 8, started.at_ns, 0))
        self.assertEqual(sorted(self.texts(path)), [("stderr", "F", b"error"), ("stdout", "F", b"before"), ("stdout", "F", b"unfinished")])
        self.client.ask("forget", "c")
        self.assertEqual(os.listdir(f"{self.shim.path}/exits"), [])

    def test_an_exit_that_nobody_has_acknowledged_is_told_by_the_new_one(self):
        self.client.run_container("c", "/bin/sh", "-c", "exit 3")
        first = self.client.event("exit", id="c")
        self.reexec()
        again = self.client.ended("c")
        self.assertEqual((again.status, again.at_ns, again.pid), (first.status, first.at_ns, first.pid))
        self.client.ask("forget", "c")

    def test_a_parked_container_can_be_started_by_the_new_one(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/echo", "hello"), log=path)
        self.client.create("d", init_plan("/no/such"))
        self.reexec()
        self.client.start("c")
        self.assertEqual(self.client.ended("c").status, 0)
        self.assertEqual(self.texts(path), [("stdout", "F", b"hello")])
        self.assert_fails(lambda: self.client.start("d"), 2)

    def test_a_running_exec_goes_on_and_its_end_and_time_out_are_told(self):
        self.client.run_container("c", "/bin/sleep", "1000")
        read, write = os.pipe()
        self.client.exec("c", "ends", exec_plan("/bin/sh", "-c", "sleep 0.3; exit 5"), fds=(write, write))
        self.client.exec("c", "hangs", exec_plan("/bin/sh", "-c", "sleep 1111 & sleep 1112"), 600, fds=(write, write))
        os.close(write)
        self.reexec()
        self.assertEqual(self.client.event("exec-exit", exec_id="ends").status, 5 << 8)
        hung = self.client.event("exec-exit", exec_id="hangs")
        self.assertEqual((hung.status, hung.timed_out), (9, 1))
        self.assertEqual(processes_with("sleep\x00111"), [])
        os.close(read)

    def test_pins_and_the_reaper_stay(self):
        self.client.ask("run", 0, 5000, plan(("clean-start",), ("new-ns", KIND["pid"]), ("fork",), ("open-own-ns", 0, KIND["pid"]), ("pin", 0, 67), ("reaper",)))
        reaper, = self.shim.children()
        self.reexec()
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", "echo $$", before=(("join-ns", 67, KIND["pid"]), ("fork",))), log=path)
        self.client.start("c")
        self.client.ended("c")
        self.assertLess(int(self.texts(path)[0][2]), 20)
        self.client.ask("shutdown")
        self.assertFalse(os.path.exists(f"/proc/{reaper}"))

    def test_other_clients_lose_their_connection(self):
        other = self.shim.client()
        self.reexec()
        with self.assertRaises(Gone):
            other.receive(1)
        other.close()

    def test_an_image_that_cannot_be_executed_changes_nothing(self):
        self.client.run_container("c", "/bin/sleep", "1000", log=self.log())
        descriptors = self.shim.descriptors()
        rubbish = os.memfd_create("rubbish")
        os.write(rubbish, b"this is no program")
        self.assert_fails(lambda: self.client.ask("reexec", fds=(rubbish,)), 8)
        os.close(rubbish)
        self.assertEqual(self.shim.descriptors(), descriptors)
        _, output = self.client.exec_output("c", "e", "/bin/sh", "-c", "ls /proc/self/fd | wc -l")
        self.assertEqual(output, "4\n", "no descriptor has become inheritable")
        self.assert_works()

    def test_it_waits_for_what_is_half_way_and_refuses_in_the_end(self):
        hanging = plan(("clean-start",), ("barrier", 1), ("park",), ("exec", "/bin/true", ["true"], []))
        request = self.client.send("create", "c", 0, 0, "", [], "", "", 0, 0, hanging)
        self.client.event("barrier")
        self.assert_fails(lambda: self.client.ask("reexec", fds=(self.newer,)), 16)
        self.client.send("continue", 1, request=request)
        self.client.answer(request, "created")
        self.reexec()
        self.assertEqual(self.client.states()["c"].phase, 2)

    def test_twice_and_back(self):
        self.client.run_container("c", "/bin/sleep", "1000", log=self.log())
        for _ in range(5):
            self.reexec()
        descriptors = len(self.shim.descriptors())
        self.reexec()
        self.assertEqual(len(self.shim.descriptors()), descriptors)
        self.client.kill("c")
        self.assertEqual(self.client.ended("c").status, 9)
        self.assertLess(self.shim.pss_kib(), 100)


if __name__ == "__main__":
    unittest.main()
