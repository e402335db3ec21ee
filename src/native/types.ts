/**
 * What the addon offers: thin system calls without policy. One plain object in, one out, `null` for absent. Every function that can
 * fail throws a NativeError whose `errno` is the kernel's number; src/native/addon.ts words it. Descriptors are plain numbers, always
 * close-on-exec, owned by the caller.
 */

/** A started host program or shim. */
export interface SpawnRequest {
  /** Path, or descriptor of the image (execveat with AT_EMPTY_PATH) when `imageFd` is set. */
  readonly path: string;
  readonly imageFd: number | null;
  readonly argv: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string | null;
  /** Descriptors that the child gets as 0, 1, 2, ...; null: /dev/null. Nothing else is inherited. */
  readonly fds: readonly (number | null)[];
  /** Signal that the child gets when this process dies, 0 for none. */
  readonly parentDeathSignal: number;
  /** Own session (setsid), so that the whole group can be signalled. */
  readonly newSession: boolean;
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
  close(): void;
}

export interface Addon {
  spawn(request: SpawnRequest): Spawned;
  /** Resolves when the child (ours, by pidfd) has ended and has been reaped. Uses poll on the pidfd, no thread. */
  waitChild(pidfd: number): Promise<ChildExit>;
  /** Resolves when the process (anyone's) behind the pidfd has ended. */
  waitGone(pidfd: number): Promise<void>;
  pidfdOpen(pid: number): number;
  pidfdSignal(pidfd: number, signal: number): void;
  /** kill(2) on a process group. */
  killGroup(pgid: number, signal: number): void;

  /** Connects to dirFd's entry `name` (through /proc/self/fd, so that long paths work). */
  seqpacketConnect(
    dirFd: number,
    name: string,
    onPacket: (packet: Buffer, fds: number[]) => void,
    onClose: (errno: number) => void,
  ): SeqpacketConnection;

  /** O_CLOEXEC is added. resolve: RESOLVE_* bits. Retries EAGAIN. Falls back to a verified walk where the kernel has no openat2. */
  openat2(dirFd: number, path: string, flags: number, mode: number, resolve: number): number;
  /** [read end, write end]; size 0: the default pipe buffer. */
  pipe(sizeBytes: number): [number, number];
  /** An executable memfd with these bytes, sealed against any change. */
  sealedMemfd(name: string, content: Uint8Array, executable: boolean): number;
  close(fd: number): void;
  umount2(path: string, flags: number): void;
  /** f_type of statfs(2). */
  fsTypeOf(fd: number): bigint;
  /** Exclusive, non-blocking flock; false: somebody else holds it. */
  tryLock(fd: number): boolean;
  fallocate(fd: number, sizeBytes: bigint): void;
  /** syncfs(2) in a worker thread. */
  syncfs(fd: number): Promise<void>;
  /** One datagram to an AF_UNIX socket (sd_notify); a leading "@" is the abstract namespace. */
  sendDatagram(path: string, data: Uint8Array): void;
  /** Compiles in a worker thread with libseccomp (binary-tree optimised); resolves to struct sock_filter[]. */
  seccompCompile(rules: SeccompRuleSet): Promise<Buffer>;
  /** Number of that system call on this machine, -1 when unknown. */
  seccompSyscallNumber(name: string): number;
  /** Loads BPF_PROG_TYPE_CGROUP_DEVICE and attaches it to the cgroup v2 directory, replacing ours of before atomically. */
  attachDeviceProgram(cgroupFd: number, instructions: Uint8Array): void;
}
