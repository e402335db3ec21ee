import threading, unittest

from case import *


class Format(ShimCase):
    def logged(self, script, **options):
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", script), log=path, **options)
        self.client.start("c")
        self.ended = self.client.ended("c")
        return self.texts(path)

    def test_pieces_of_a_long_line_are_p_until_the_last(self):
        found = self.logged("printf 'aaaaaaaaaa'; printf 'bbbbbbbbbb'; printf 'ccc\\n'; echo short", line=10)
        self.assertEqual(found, [("stdout", "P", b"a" * 10), ("stdout", "P", b"b" * 10), ("stdout", "F", b"ccc"), ("stdout", "F", b"short")])

    def test_a_line_of_exactly_the_limit_is_one_record(self):
        found = self.logged("printf 'aaaaaaaaaa\\nbbbbbbbbbbcccccccccc\\n'", line=10)
        self.assertEqual(found, [("stdout", "F", b"a" * 10), ("stdout", "P", b"b" * 10), ("stdout", "F", b"c" * 10)])

    def test_the_default_piece_has_16384_bytes(self):
        found = self.logged("head -c 40000 /dev/zero | tr '\\0' x; echo")
        self.assertEqual([(tag, len(text)) for _, tag, text in found], [("P", 16384), ("P", 16384), ("F", 40000 - 2 * 16384)])

    def test_an_unterminated_rest_is_p(self):
        self.assertEqual(self.logged("printf whole\\\\nrest"), [("stdout", "F", b"whole"), ("stdout", "P", b"rest")])
        self.assertEqual(self.ended.log_dropped_bytes, 0)

    def test_carriage_returns_nuls_and_empty_lines_are_kept(self):
        self.assertEqual(self.logged("printf 'a\\r\\n\\n\\000b\\n'"), [("stdout", "F", b"a\r"), ("stdout", "F", b""), ("stdout", "F", b"\0b")])

    def test_a_line_that_comes_in_pieces_over_time_is_one_record(self):
        found = self.logged("for i in 1 2 3 4 5; do printf $i; printf e$i >&2; sleep 0.03; done; echo; echo >&2")
        self.assertEqual(sorted(found), [("stderr", "F", b"e1e2e3e4e5"), ("stdout", "F", b"12345")])

    def test_nothing_is_lost_or_mixed_under_load(self):
        script = "i=0; while [ $i -lt 3000 ]; do echo out $i aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; echo err $i bbbbbbbbbbbb >&2; i=$((i+1)); done"
        found = self.logged(script)
        for stream, word in (("stdout", b"out"), ("stderr", b"err")):
            numbers = [int(text.split()[1]) for s, tag, text in found if s == stream and text.startswith(word) and tag == "F"]
            self.assertEqual(numbers, list(range(3000)))

    def test_a_large_output_arrives_whole(self):
        found = self.logged("head -c 20000000 /dev/urandom | base64 -w 76; exit 0")
        total = sum(len(text) for _, _, text in found)
        self.assertEqual(total, (20000000 + 2) // 3 * 4)
        self.assertEqual({tag for _, tag, _ in found}, {"F"})

    def test_times_are_utc_and_never_go_back(self):
        before = time.time()
        self.logged("for i in 1 2 3; do echo $i; sleep 0.01; done")
        stamps = [line.split()[0] for line in self.lines(self.log())]
        self.assertEqual(stamps, sorted(stamps))
        import calendar

        first = calendar.timegm(time.strptime(stamps[0][:19], "%Y-%m-%dT%H:%M:%S"))
        self.assertTrue(int(before) <= first <= time.time())

    def test_without_a_path_output_is_discarded(self):
        self.client.create("c", init_plan("/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 3"))
        self.client.start("c")
        ended = self.client.ended("c")
        self.assertEqual((ended.status, ended.log_dropped_bytes), (3 << 8, 0))

    def test_an_exit_waits_two_seconds_at_most_for_those_who_hold_the_pipes(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/sh", "-c", "(sleep 1; echo late; printf cut; sleep 60; echo never) & exit 0"), log=path)
        self.client.start("c")
        began = time.monotonic()
        self.client.ended("c")
        self.assertTrue(1.9 < time.monotonic() - began < 2.6, time.monotonic() - began)
        self.assertEqual(self.texts(path), [("stdout", "F", b"late"), ("stdout", "P", b"cut")])

    def test_an_exit_does_not_wait_for_a_writer_that_never_stops(self):
        self.client.create("c", init_plan("/bin/sh", "-c", "yes & exit 0"), log=self.log())
        self.client.start("c")
        began = time.monotonic()
        self.client.ended("c")
        self.assertLess(time.monotonic() - began, 3.2)


class Files(ShimCase):
    def test_links_and_what_is_no_regular_file_are_refused_and_the_container_ends_unstarted(self):
        target = os.path.join(self.shim.path, "target")
        os.mkdir(os.path.join(self.shim.path, "logs"))
        makers = {"link": lambda path: os.symlink(target, path), "fifo": os.mkfifo, "directory": os.mkdir, "device": lambda path: os.symlink("/dev/null", path)}
        for what, make in makers.items():
            with self.subTest(what):
                make(self.log(what))
                self.client.create(what, init_plan("/bin/echo", "x"), log=self.log(what))
                failed = self.assert_fails(lambda: self.client.start(what), detail=self.log(what))
                self.assertNotEqual(failed.errno, 0)
                ended = self.client.ended(what)
                self.assertEqual((ended.status, ended.started_at_ns), (128 << 8, 0))
        self.assertFalse(os.path.exists(target))

    def test_reopening_makes_the_file_before_the_answer_and_later_output_goes_there(self):
        path = self.log()
        os.makedirs(os.path.dirname(path))
        go = os.path.join(self.shim.path, "go")
        os.mkfifo(go)
        self.client.run_container("c", "/bin/sh", "-c", f"echo first; cat {go}; echo second; sleep 100", log=path)
        wait_for(lambda: len(self.texts(path)) == 1)
        os.rename(path, path + ".1")
        self.client.ask("reopen-log", "c")
        self.assertTrue(os.path.exists(path))
        open(go, "w").close()
        wait_for(lambda: self.texts(path) == [("stdout", "F", b"second")])
        self.assertEqual(self.texts(path + ".1"), [("stdout", "F", b"first")])

    def test_a_reopen_that_cannot_be_keeps_the_old_file(self):
        path = self.log()
        go = os.path.join(self.shim.path, "go")
        os.mkfifo(go)
        self.client.run_container("c", "/bin/sh", "-c", f"echo first; cat {go}; echo second; sleep 100", log=path)
        os.rename(path, path + ".1")
        os.symlink("/etc/passwd", path)
        self.assert_fails(lambda: self.client.ask("reopen-log", "c"), 40, path)
        open(go, "w").close()
        wait_for(lambda: self.texts(path + ".1")[1:] == [("stdout", "F", b"second")])

    def test_reopening_of_what_does_not_run_makes_no_file(self):
        path = self.log()
        self.client.create("c", init_plan("/bin/true"), log=path)
        self.assert_fails(lambda: self.client.ask("reopen-log", "c"), 0, "not running")
        self.client.start("c")
        self.client.ended("c")
        os.unlink(path)
        self.assert_fails(lambda: self.client.ask("reopen-log", "c"), 0, "not running")
        self.assertFalse(os.path.exists(path))

    def test_no_line_is_lost_or_torn_by_many_rotations(self):
        path = self.log()
        self.client.run_container("c", "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done", log=path)
        rotated = []
        for n in range(60):
            try:
                os.rename(path, f"{path}.{n}")
                rotated.append(f"{path}.{n}")
                self.client.ask("reopen-log", "c")
            except (Failed, FileNotFoundError):
                break
        self.client.ended("c")
        files = [*rotated, *([path] if os.path.exists(path) else [])]
        numbers = [int(text.split()[1]) for file in files for _, _, text in self.texts(file)]
        self.assertEqual(numbers, list(range(20000)))


class Trouble(ShimCase):
    def test_a_full_disk_costs_log_bytes_that_are_counted_and_nothing_else(self):
        mount = self.file_system(64, "tmpfs")
        path = f"{mount}/log"
        self.client.create("c", init_plan("/bin/sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x | fold -w 99; echo; exit 6"), log=path)
        self.client.start("c")
        ended = self.client.ended("c")
        self.assertEqual(ended.status, 6 << 8)
        kept = sum(len(text) + 1 for _, _, text in self.texts(path))
        written = 200000 + 200000 // 99 + 1
        self.assertGreater(kept, 10000)
        self.assertEqual(kept + ended.log_dropped_bytes, written)

    def test_a_disk_that_is_full_of_long_records_has_no_torn_one(self):
        mount = self.file_system(64, "tmpfs")
        path = f"{mount}/log"
        self.client.create("c", init_plan("/bin/sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x | fold -w 10000"), log=path)
        self.client.start("c")
        ended = self.client.ended("c")
        self.assertTrue(all(len(text) == 10000 for _, _, text in self.texts(path)))
        self.assertGreater(ended.log_dropped_bytes, 100000)

    def test_logging_goes_on_when_there_is_room_again(self):
        mount = self.file_system(64, "tmpfs")
        ballast, path, go = f"{mount}/ballast", f"{mount}/log", f"{self.shim.path}/go"
        os.mkfifo(go)
        self.client.run_container("c", "/bin/sh", "-c", f"cat {go}; echo lost; cat {go}; echo kept; sleep 100", log=path)
        with self.assertRaises(OSError):
            with open(ballast, "wb", 0) as file:
                while True:
                    file.write(b"x" * 4096)
        open(go, "w").close()
        wait_for(lambda: self.client.states()["c"].log_dropped_bytes == 5)
        os.unlink(ballast)
        open(go, "w").close()
        wait_for(lambda: self.texts(path) == [("stdout", "F", b"kept")])

    def test_an_exit_is_reported_and_recorded_on_a_full_state_disk(self):
        mount = self.file_system(64, "tmpfs")
        shim = Shim(self.binary, directory=mount)
        self.addCleanup(shim.stop)
        client = shim.client()
        client.create("c", init_plan("/bin/sh", "-c", "exit 5"))
        with self.assertRaises(OSError):
            with open(f"{mount}/ballast", "wb", 0) as file:
                while True:
                    file.write(b"x" * 512)
        self.assertEqual(client.start("c").name, "started")
        self.assertEqual(client.event("exit", id="c").status, 5 << 8)
        self.assertIn("status 1280\n", open(f"{mount}/exits/c").read())
        # No new container is begun whose exit could not be kept.
        failed = self.assert_fails(lambda: client.create("d", init_plan("/bin/true")), 28, "exit record")
        self.assertEqual(set(client.states()), {"c"})
        client.ask("ack-exit", "c")
        client.ask("forget", "c")
        del failed

    def test_a_frozen_log_file_system_stops_its_container_only(self):
        mount = self.file_system(8192)
        frozen, free = f"{mount}/log", self.log("free")
        self.client.run_container("frozen", "/bin/sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.001; done", log=frozen)
        self.client.run_container("free", "/bin/sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done", log=free)
        wait_for(lambda: os.path.exists(frozen) and os.path.getsize(frozen) > 0)
        subprocess.run(["fsfreeze", "-f", mount], check=True)
        thawed = threading.Event()

        def thaw():
            if not thawed.is_set():
                thawed.set()
                subprocess.run(["fsfreeze", "-u", mount], check=True)

        self.addCleanup(thaw)
        time.sleep(0.3)
        before = len(self.texts(free))
        ended, output = self.client.exec_output("free", "e", "/bin/echo", "exec goes on")
        self.assertEqual((ended.status, output), (0, "exec goes on\n"))
        ended, output = self.client.exec_output("frozen", "e2", "/bin/echo", "here too")
        self.assertEqual((ended.status, output), (0, "here too\n"))
        wait_for(lambda: len(self.texts(free)) > before + 20, what="the sibling's log")
        self.client.run_container("short", "/bin/sh", "-c", "echo hello; exit 4", log=self.log("short"))
        began = time.monotonic()
        self.assertEqual(self.client.ended("short").status, 4 << 8)
        self.assertLess(time.monotonic() - began, 0.5)
        self.assertEqual(self.texts(self.log("short")), [("stdout", "F", b"hello")])
        # Its own end is reported too, after a bounded wait for the log.
        self.client.kill("frozen")
        began = time.monotonic()
        self.assertEqual(self.client.ended("frozen").status, 9)
        self.assertLess(time.monotonic() - began, 4)
        self.client.kill("free")
        self.client.ended("free")
        thaw()
        self.client.ask("forget", "frozen")
        numbers = [int(text.split()[1]) for _, tag, text in self.texts(frozen) if tag == "F"]
        self.assertEqual(numbers, list(range(len(numbers))), "no hole before the end")
        wait_for(lambda: len(os.listdir(f"/proc/{self.shim.pid}/task")) <= 2, what="extra writers gone")

    def test_a_frozen_log_does_not_hold_up_the_start_of_others(self):
        mount = self.file_system(8192)
        self.client.create("frozen", init_plan("/bin/true"), log=f"{mount}/log")
        subprocess.run(["fsfreeze", "-f", mount], check=True)
        try:
            request = self.client.send("start", "frozen")
            for i in range(3):
                self.client.run_container(f"c{i}", "/bin/echo", "hi", log=self.log(f"l{i}"))
                self.assertEqual(self.client.ended(f"c{i}").status, 0)
            self.assertEqual([m for m in self.client.seen if m.request == request], [])
        finally:
            subprocess.run(["fsfreeze", "-u", mount], check=True)
        self.assertEqual(self.client.answer(request, "started").name, "started")
        self.client.ended("frozen")

    def test_a_frozen_state_directory_delays_an_exit_and_does_not_prevent_it(self):
        mount = self.file_system(8192)
        shim = Shim(self.binary, directory=mount)
        client = shim.client()
        client.run_container("c", "/bin/sh", "-c", "sleep 0.5; exit 5")
        subprocess.run(["fsfreeze", "-f", mount], check=True)
        try:
            began = time.monotonic()
            self.assertEqual(client.event("exit", id="c").status, 5 << 8)
            self.assertLess(time.monotonic() - began, 3)
        finally:
            subprocess.run(["fsfreeze", "-u", mount], check=True)
        wait_for(lambda: os.path.exists(f"{mount}/exits/c"))
        client.ask("ack-exit", "c")
        client.ask("forget", "c")
        shim.stop()


if __name__ == "__main__":
    unittest.main()
