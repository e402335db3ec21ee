"""The listening side of a SEQPACKET socket, driven by JSON lines: commands on stdin, what happens on stdout.

Commands: {"do": "send", "hex": "...", "files": ["/path", ...]}, {"do": "pause"}, {"do": "resume"}, {"do": "hangup"}.
Events: listening, accepted, packet (hex, links of the received descriptors, content of those that are regular files), closed.
"""
import array, json, os, select, socket, stat, sys

path = sys.argv[1]


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(path)
server.listen(8)
say(event="listening")
peer = None
reading = True
pending = b""


def receive():
    try:
        data, ancillary, _, _ = peer.recvmsg(1 << 18, socket.CMSG_SPACE(253 * 4))
    except ConnectionResetError:  # closed with packets unread
        return b"", [], []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % 4])
    links, contents = [], []
    for fd in fds:
        links.append(os.readlink(f"/proc/self/fd/{fd}"))
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        contents.append(os.pread(fd, 1 << 24, 0).hex() if regular else "")
        os.close(fd)
    return data, links, contents


def command(line):
    global reading, peer
    order = json.loads(line)
    if order["do"] == "send" and peer is not None:
        opened = [os.open(p, os.O_RDONLY) for p in order.get("files", [])]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", opened))] if opened else []
        try:
            peer.sendmsg([bytes.fromhex(order["hex"])], rights)
        except (BrokenPipeError, ConnectionResetError):
            pass
        for fd in opened:
            os.close(fd)
    elif order["do"] == "pause":
        reading = False
    elif order["do"] == "resume":
        reading = True
    elif order["do"] == "hangup" and peer is not None:
        peer.close()
        peer = None


while True:
    watched = [sys.stdin, server] + ([peer] if peer is not None and reading else [])
    for ready in select.select(watched, [], [])[0]:
        if ready is sys.stdin:
            chunk = os.read(0, 1 << 20)
            if not chunk:
                sys.exit(0)
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                command(line)
        elif ready is server:
            peer, _ = server.accept()
            say(event="accepted")
        elif ready is peer:
            data, links, contents = receive()
            if data:
                say(event="packet", hex=data.hex(), links=links, contents=contents)
            else:
                say(event="closed")
                peer.close()
                peer = None
