/**
 * What the addon offers: thin system calls without policy. One plain object in, one out, `null` for absent. Every function that can
 * fail throws a NativeError whose `errno` is the kernel's number; src/native/addon.ts words it. Descriptors are plain numbers, always
 * close-on-exec, owned by the caller.
 */

/** A started host program or shim. */
export interface SpawnRequest {
  /** Path, or a name for messages when `imageFd`, the descriptor of the image (execveat with AT_EMPTY_PATH), is set. */
  readonly path: string;
  readonly imageFd: number | null;
  readonly argv: readonly string[];
  readonly env: readonly string[];
  /** null: "/". */
  readonly cwd: string | null;
  /** Descriptors that the child gets as 0, 1, 2, ...; null: /dev/null. Nothing else is inherited. */
  readonly fds: readonly (number | null)[];
  /** Signal that the child gets when this process dies, 0 for none. */
  readonly parentDeathSignal: number;
  /** Own session (setsid), so that the whole group can be signalled. */
  readonly newSession: boolean;
  /** Soft RLIMIT_NOFILE, at most the hard one (Node raises its own). Absent or null: 1024, the kernel's default. */
  readonly softNofile?: number | null;
  /** Directory of a cgroup v2 to be born in (CLONE_INTO_CGROUP). */
  readonly cgroupFd?: number | null;
  /** v1 `tasks` files to which the child writes "0" before it executes: a process that moves itself waits for no grace period. */
  readonly taskFiles?: readonly string[];
}

export interface Spawned {
  readonly pid: number;
  readonly pidfd: number;
}

/** How a child of this process ended. */
export interface ChildExit {
  /** Exit code, or -1 when a signal ended it. */
  readonly code: number;
  readonly signal: number;
}

export interface SeccompRuleSet {
  /** SCMP_ACT_* with the errno or trace number folded in by the wrapper. */
  readonly defaultAction: number;
  /** SCMP_ARCH_* tokens; the native one is always there. */
  readonly architectures: readonly number[];
  /** ENOSYS instead of the default action for system calls above the largest number that the rules mention. Absent: if the default action refuses. */
  readonly enosysForNewer?: boolean;
  readonly rules: readonly {
    readonly action: number;
    readonly syscall: string;
    readonly args: readonly { readonly index: number; readonly op: number; readonly value: bigint; readonly valueTwo: bigint }[];
  }[];
}

/** A SEQPACKET connection that carries descriptors. Callbacks run on the JS thread. */
export interface SeqpacketConnection {
  /** Sends one packet now; throws EAGAIN's NativeError when the peer does not read (the wrapper queues). */
  send(packet: Uint8Array, fds: readonly number[]): void;
  /** Called once when a send that met EAGAIN may be tried again. */
  onWritable(callback: () => void): void;
  /** SO_PEERCRED: who listens on the other side. */
  peer(): { readonly pid: number; readonly uid: number };
  /** No callback is called after this. */
  close(): void;
}

/** A pipe or terminal that is being read. */
export interface PipeReader {
  /** Nothing is read until resume(): who writes waits. */
  pause(): void;
  resume(): void;
  /** Closes the descriptor; no callback is called after this. */
  close(): void;
}

/** A pipe or terminal that is written to without ever waiting. */
export interface PipeWriter {
  /** How many of the bytes were taken: 0 when there is no room. Throws EPIPE's NativeError when nobody reads any more. */
  write(bytes: Uint8Array): number;
  /** Called once when a write that found no room may be tried again. */
  onRoom(callback: () => void): void;
  /** Closes the descriptor; no callback is called after this. */
  close(): void;
}

export interface Addon {
  spawn(request: SpawnRequest): Spawned;
  /**
   * Resolves when the child (ours, by pidfd) has ended and has been reaped. Uses poll on the pidfd, no thread; the caller may close
   * the pidfd meanwhile. With `background` the wait does not keep this process alive.
   */
  waitChild(pidfd: number, background?: boolean): Promise<ChildExit>;
  /** Resolves when the process (anyone's) behind the pidfd has ended. */
  waitGone(pidfd: number, background?: boolean): Promise<void>;
  pidfdOpen(pid: number): number;
  pidfdSignal(pidfd: number, signal: number): void;
  /** kill(2) on a process group. */
  killGroup(pgid: number, signal: number): void;
  /**
   * Of the calling thread: its nice value, and how long it runs before others get their turn (100 us to 100 ms; before Linux 6.12 every
   * thread has the kernel's own). What it starts inherits no slice and no nice value below 0.
   */
  setSlices(microseconds: number, nice: number): void;

  /** Connects to dirFd's entry `name` (through /proc/self/fd, so that long paths work). With `background` it keeps this process not alive. */
  seqpacketConnect(
    dirFd: number,
    name: string,
    onPacket: (packet: Buffer, fds: number[]) => void,
    onClose: (errno: number) => void,
    background?: boolean,
  ): SeqpacketConnection;

  /** A socket pair, for a program that is given its other end, which is the caller's to close. */
  seqpacketPair(
    onPacket: (packet: Buffer, fds: number[]) => void,
    onClose: (errno: number) => void,
  ): SeqpacketConnection & { readonly otherEnd: number };

  /**
   * Reads a pipe until its end, in chunks of at most 64 KiB. Takes the descriptor, also when it throws. `onEnd` is called once, with
   * errno 0 at the end of the data and the permission bits that the pipe has then. With `background` it keeps this process not alive.
   */
  readPipe(
    fd: number,
    onData: (chunk: Buffer) => void,
    onEnd: (errno: number, mode: number) => void,
    background?: boolean,
  ): PipeReader;
  /** Makes the descriptor non-blocking and takes it, also when it throws. */
  writePipe(fd: number): PipeWriter;

  /** O_CLOEXEC is added. resolve: RESOLVE_* bits. Retries EAGAIN. Falls back to a verified walk where the kernel has no openat2. */
  openat2(dirFd: number, path: string, flags: number, mode: number, resolve: number): number;
  /** For tests: behave as on a kernel without these system calls (openat2, clone3, close_range, clone_into_cgroup; others are ignored). */
  denySyscalls(names: readonly string[]): void;
  /** [read end, write end]; size 0: the default pipe buffer. */
  pipe(sizeBytes: number): [number, number];
  /** Two ends of a stream socket. */
  streamPair(): [number, number];
  duplicate(fd: number): number;
  /** Non-blocking, counter 0; readPipe reads its 8 bytes at a time. */
  eventfd(): number;
  /** Through either end of a pseudo-terminal. */
  resizeTerminal(fd: number, rows: number, cols: number): void;
  /** A memfd with these bytes, sealed against any change; the descriptor is read-only. */
  sealedMemfd(name: string, content: Uint8Array, executable: boolean): number;
  close(fd: number): void;
  /** umount2(2) in a worker thread: the kernel waits for a grace period. */
  umount2(path: string, flags: number): Promise<void>;
  /** Of the file itself, a link is not followed; null: it has none of that name. At most 256 bytes. */
  extendedAttribute(path: string, name: string): string | null;
  /** f_type of statfs(2). */
  fsTypeOf(fd: number): bigint;
  /** Exclusive, non-blocking flock; false: somebody else holds it. */
  tryLock(fd: number): boolean;
  /** Gives up the lock for everybody who shares this open file, children that inherited it included. */
  unlock(fd: number): void;
  fallocate(fd: number, sizeBytes: bigint): void;
  /** syncfs(2) in a worker thread. */
  syncfs(fd: number): Promise<void>;
  /**
   * Reads small files of kernel filesystems, each with one open and (up to some KiB) one read, all in one turn of a worker thread. A
   * file that cannot be read is the number of the error; one above 1 MiB is EFBIG.
   */
  readFiles(paths: readonly string[]): Promise<readonly (string | number)[]>;
  /** Open descriptors of these processes together, in a worker thread. A process that is gone has none. */
  countDescriptors(pids: readonly number[]): Promise<{ readonly descriptors: number; readonly sockets: number }>;
  /** Gives free memory of the allocator back to the kernel, from between what is in use too: some milliseconds. */
  trimMemory(): void;
  /** One datagram to an AF_UNIX socket (sd_notify), with a descriptor if there is one; a leading "@" is the abstract namespace. */
  sendDatagram(path: string, data: Uint8Array, fd?: number): void;
  /** A non-blocking datagram socket that becomes dirFd's entry `name`; readPipe reads it, a datagram at a time. */
  bindDatagram(dirFd: number, name: string): number;
  /** Connects to the stream socket that is dirFd's entry `name`, sends `data` with the descriptor in one message, and hangs up. */
  sendDescriptor(dirFd: number, name: string, data: string, fd: number): void;
  /** Compiles in a worker thread with libseccomp (binary-tree optimised); resolves to struct sock_filter[]. */
  seccompCompile(rules: SeccompRuleSet): Promise<Buffer>;
  /** Number of that system call on this machine, -1 when unknown. */
  seccompSyscallNumber(name: string): number;
  /** Loads BPF_PROG_TYPE_CGROUP_DEVICE and attaches it to the cgroup v2 directory, replacing ours of before atomically. */
  attachDeviceProgram(cgroupFd: number, instructions: Uint8Array): void;
}
