import unittest

from case import *


class Memory(ShimCase):
    """PSS as DESIGN.md and the first issue demand; a lone shim, so that no page of the binary is shared."""

    def setUp(self):
        super().setUp()
        log = self.log("c0")
        self.client.run_container("c0", "/bin/sh", "-c", "while read line; do :; done; echo ready; exec sleep 1000", log=log)
        wait_for(lambda: os.path.exists(log) and self.texts(log))

    def settled(self):
        """What is left when the shim has gone to sleep again."""
        self.client.states()
        time.sleep(0.05)
        return self.shim.pss_kib()

    def test_one_container(self):
        self.assertLess(self.settled(), 100)

    def test_each_further_container_costs_little(self):
        for i in range(1, 4):
            self.client.run_container(f"c{i}", "/bin/sleep", "1000", log=self.log(f"c{i}"))
        before = self.settled()
        for i in range(4, 24):
            self.client.run_container(f"c{i}", "/bin/sleep", "1000", log=self.log(f"c{i}"), kill=["/sys/fs/cgroup/" + "k" * 200] * 10)
        grown = (self.settled() - before) / 20
        self.assertLess(grown, 16)

    def test_execs_and_containers_that_come_and_go_leave_nothing(self):
        def round(count):
            for i in range(count):
                self.client.exec_output("c0", f"e{i}", "/bin/true")
                if i % 10 == 0:
                    self.client.run_container("guest", "/bin/echo", "hi", log=self.log("guest"))
                    self.client.ended("guest")
                    self.client.ask("forget", "guest")

        round(30)
        memory, descriptors = self.settled(), self.shim.descriptors()
        round(400)
        self.assertLessEqual(self.settled(), memory + 8)
        self.assertEqual(len(self.shim.descriptors()), len(descriptors))
        self.assertLess(self.settled(), 100)

    def test_log_traffic_leaves_nothing_and_stays_small_meanwhile(self):
        script = "i=0; while [ $i -lt 40 ]; do head -c 500000 /dev/urandom | base64 -w $((i*700+10)); i=$((i+1)); done"
        before = self.settled()
        self.client.run_container("talker", "/bin/sh", "-c", script, log=self.log("talker"))
        most = 0
        while not [m for m in self.client.seen if m.name == "exit"]:
            most = max(most, self.shim.pss_kib())
            if (message := self.client.receive(0.02)) is not None:
                self.client.seen.append(message)
        self.client.ended("talker")
        self.client.ask("forget", "talker")
        self.assertLess(most, 100 + 16 + 20, "a second container, and a piece of 16 KiB in the writer's hands")
        self.assertLessEqual(self.settled(), before + 4)

    def test_many_concurrent_execs_are_given_back(self):
        before = self.settled()
        pipes = [os.pipe() for _ in range(100)]
        requests = [self.client.send("exec", "c0", f"e{i}", 0, "", 0, exec_plan("/bin/sleep", "1"), fds=(write, write)) for i, (_, write) in enumerate(pipes)]
        for request in requests:
            self.client.answer(request, "exec-started")
        for i in range(100):
            self.client.event("exec-exit", exec_id=f"e{i}")
        for pipe in pipes:
            os.close(pipe[0])
            os.close(pipe[1])
        self.assertLessEqual(self.settled(), before + 8)

    def test_half_made_containers_leave_nothing(self):
        before, descriptors = self.settled(), self.shim.descriptors()
        hanging = plan(("clean-start",), ("barrier", 1), ("park",), ("exec", "/bin/true", ["true"], []))
        for i in range(50):
            other = self.shim.client()
            other.send("create", f"half{i}", 0, 0, "", [], "", "", 0, 0, hanging)
            other.event("barrier")
            other.close()
        wait_for(lambda: set(self.client.states()) == {"c0"})
        wait_for(lambda: len(self.shim.descriptors()) == len(descriptors))
        self.assertLessEqual(self.settled(), before + 8)


if __name__ == "__main__":
    unittest.main()
