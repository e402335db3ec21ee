import random, unittest

from case import *


class Protocol(ShimCase):
    def test_hello_says_who_it_is_and_what_it_knows(self):
        hello = self.client.hello
        self.assertEqual((hello.pod_id, hello.pid), (POD, self.shim.pid))
        self.assertEqual(set(hello.ops), {code for code, _ in OPS.values()})
        self.assertEqual(set(hello.messages), {code for code, _ in MESSAGES.values()})
        ticks = int(open(f"/proc/{self.shim.pid}/stat").read().rsplit(")", 1)[1].split()[19])
        self.assertEqual(hello.start_ticks, ticks)
        import json

        said = json.load(open(f"{self.shim.path}/shim.json"))
        boot = open("/proc/sys/kernel/random/boot_id").read().strip()
        self.assertEqual(said, dict(pid=self.shim.pid, startTicks=ticks, bootId=boot, build=hello.build, protocol=hello.protocol))
        self.assertEqual(os.stat(f"{self.shim.path}/shim.sock").st_mode & 0o777, 0o600)

    def test_protocols_without_overlap_are_refused_with_a_sentence(self):
        for low, high in ((90, 99), (0, 0), (2, 1)):
            with self.assertRaises(Failed) as caught:
                self.shim.client(low=low, high=high)
            self.assertIn("no protocol in common", caught.exception.detail)
        self.assert_works()

    def test_clients_of_other_users_are_refused(self):
        os.chmod(self.shim.path, 0o755)
        os.chmod(f"{self.shim.path}/shim.sock", 0o777)
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            try:
                self.shim.client()
            except (Gone, OSError):
                os._exit(0)
            os._exit(1)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def test_a_malformed_packet_costs_its_sender_the_connection_and_nobody_else(self):
        def header(code, flags=0, length=0):
            return struct.pack("<HHII", code, flags, 7, length)

        unsealed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(unsealed, b"x" * 40000)
        short = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(short, b"x" * 10)
        fcntl.fcntl(short, F_ADD_SEALS, SEALS)
        file = os.open("/bin/sh", os.O_RDONLY)
        create = MESSAGES["create"][0]
        start = MESSAGES["start"][0]
        bad = {
            "no header": (b"abc", ()),
            "empty hello": (header(1), ()),
            "length too long": (header(start, 0, 100) + b"\0" * 5, ()),
            "trailing bytes": (header(start, 0, 10) + put("s", ["a"]) + b"\0" * 4, ()),
            "string without NUL": (header(start, 0, 6) + b"\1\0\0\0ab", ()),
            "huge string": (header(start, 0, 6) + b"\xff\xff\xff\xffab", ()),
            "unknown flags": (header(start, 2, 6) + put("s", ["a"]), ()),
            "memfd without descriptor": (header(create, 1, 40000), ()),
            "unsealed memfd": (header(create, 1, 40000), (unsealed,)),
            "memfd of another size": (header(create, 1, 40000), (short,)),
            "memfd with nothing": (header(create, 1, 0), (short,)),
            "a file": (header(create, 1, os.stat("/bin/sh").st_size), (file,)),
            "memfd too large": (header(create, 1, 0xFFFFFFFF), (unsealed,)),
            "too long": (header(start, 0, 40000) + b"\0" * 40000, ()),
            "a message of the shim": (header(MESSAGES["created"][0], 0, 12) + b"\0" * 12, ()),
            "too many descriptors": (header(start, 0, 6) + put("s", ["a"]), (file,) * 80),
        }
        before = self.shim.descriptors()
        for what, (packet, fds) in bad.items():
            with self.subTest(what):
                client = self.shim.client()
                client.raw(packet, fds)
                reply = client.receive()
                self.assertEqual((reply.name, reply.errno), ("failed", 74))
                with self.assertRaises(Gone):
                    client.receive()
                client.close()
        greeting = self.shim.client(hello=False)
        greeting.raw(header(start, 0, 6) + put("s", ["a"]) + b"")
        self.assertEqual(greeting.receive().name, "failed")
        for fd in (unsealed, short, file):
            os.close(fd)
        self.assertTrue(self.shim.alive())
        self.assertEqual(self.client.states(), {}, "the other connection goes on")
        greeting.close()
        wait_for(lambda: len(self.shim.descriptors()) == len(before), what="descriptors given back")
        self.assert_works()

    def test_an_unknown_request_is_answered_and_the_connection_stays(self):
        self.client.raw(struct.pack("<HHII", 999, 0, 5, 0))
        self.assertEqual(self.client.answer(5, "failed").errno, 38)
        self.assertEqual(self.client.states(), {})

    def test_random_packets_never_end_the_shim(self):
        chance = random.Random(20261123)
        plans = [init_plan("/bin/true"), exec_plan("/bin/true"), b""]
        dangerous = {MESSAGES[name][0] for name in ("shutdown", "reexec")}
        for _ in range(1500):
            try:
                client = self.shim.client()
                for _ in range(3):
                    name = chance.choice([n for n in MESSAGES if MESSAGES[n][0] not in dangerous])
                    code, signature = MESSAGES[name]
                    sample = {"u": lambda: chance.choice([0, 1, 2, 7, 64, 0xFFFFFFFF]), "U": lambda: 1, "I": lambda: -1,
                              "s": lambda: chance.choice(["", "a", "c" * 200, "../x"]), "b": lambda: chance.choice(plans),
                              "S": lambda: ["/x"] * chance.randrange(3), "L": lambda: [1, 2]}
                    payload = bytearray(put(signature, [sample[kind]() for kind in signature]))
                    for _ in range(chance.choice([0, 0, 1, 3])):
                        if payload:
                            payload[chance.randrange(len(payload))] = chance.randrange(256)
                    client.raw(struct.pack("<HHII", code, chance.choice([0, 0, 0, 1]), 1, len(payload)) + bytes(payload))
                client.close()
            except (Gone, OSError):
                pass
        self.assertTrue(self.shim.alive())
        for id in self.client.states():
            try:
                self.client.ask("forget", id)
            except Failed:
                pass
        self.assert_works()

    def test_sixteen_clients_and_no_more(self):
        clients = [self.shim.client() for _ in range(15)]
        with self.assertRaises((Gone, OSError, AssertionError)):
            self.shim.client()
        clients.pop().close()
        wait_for(lambda: self.connects(), what="a place that is free again")

    def connects(self):
        try:
            self.shim.client().close()
            return True
        except (Gone, OSError):
            return False

    def test_signals_do_not_end_it(self):
        for number in (1, 2, 3, 13, 15, 10, 12):
            os.kill(self.shim.pid, number)
        time.sleep(0.05)
        self.assertTrue(self.shim.alive())
        self.assert_works()

    def test_two_shims_in_one_directory_the_second_takes_the_socket_over(self):
        second = Shim(self.binary, directory=self.shim.path)
        self.addCleanup(second.stop)
        self.assertEqual(self.shim.client().hello.pid, second.pid)


class Sanitized(Protocol):
    """The same, and a container's life, with sanitizers in the shim."""

    @classmethod
    def setUpClass(cls):
        cls.binary = sanitized()

    def test_containers_and_execs_come_and_go(self):
        for i in range(6):
            self.client.run_container("c", "/bin/sh", "-c", "head -c 50000 /dev/zero | tr '\\0' x | fold -w 999; exec sleep 100", log=self.log())
            for k in range(3):
                self.client.exec_output("c", f"e{k}", "/bin/sh", "-c", "sleep 10 & sleep 10", timeout=250)
            self.client.send("signal", "c", 9, 0)
            self.client.ended("c")
            self.client.ask("forget", "c")
        self.client.ask("shutdown")
        self.assertEqual(os.waitpid(self.shim.pid, 0)[1], 0)


class Versions(unittest.TestCase):
    """A shim of the protocol before and of the one after ours does what every daemon needs."""

    def whole_life(self, binary, low, high):
        shim = Shim(binary)
        self.addCleanup(shim.stop)
        client = shim.client(low=low, high=high)
        path = f"{shim.path}/log"
        client.run_container("c", "/bin/sh", "-c", "echo hello; sleep 100", log=path)
        ended, output = client.exec_output("c", "e", "/bin/echo", "from exec")
        self.assertEqual((ended.status, output), (0, "from exec\n"))
        wait_for(lambda: b"hello" in open(path, "rb").read())
        client.kill("c", 15)
        self.assertEqual(client.ended("c").status, 15)
        client.ask("forget", "c")
        return client.hello

    def test_one_older(self):
        hello = self.whole_life(variant("older", "-DPROTOCOL_VERSION_OVERRIDE=1 -DMIN_PROTOCOL_VERSION_OVERRIDE=1"), 1, 2)
        self.assertEqual((hello.protocol, hello.max_protocol), (1, 1))

    def test_one_newer(self):
        hello = self.whole_life(variant("newer", "-DPROTOCOL_VERSION_OVERRIDE=3"), 1, 2)
        self.assertEqual((hello.protocol, hello.max_protocol), (2, 3))

    def test_a_newer_one_that_has_dropped_ours(self):
        shim = Shim(variant("newest", "-DPROTOCOL_VERSION_OVERRIDE=9 -DMIN_PROTOCOL_VERSION_OVERRIDE=8"))
        self.addCleanup(shim.stop)
        with self.assertRaises(Failed) as caught:
            shim.client(low=1, high=2)
        self.assertIn("8 to 9", caught.exception.detail)


if __name__ == "__main__":
    unittest.main()
