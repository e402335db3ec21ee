import { RuntimeError } from "../../lib/errors.ts";
import { isErrno } from "../../native/addon.ts";
import { encodePlan, type OpName, type Plan } from "../plan.ts";
import { opSchemas } from "../plan-schema.ts";
import type { ProcessIdentity } from "../runtime.ts";
import { closeAll, type Request, type ShimClient } from "./client.ts";
import { type Message, type MessageName, type RecordOfMessage, typeOfMessage } from "./codec.ts";
import type { ShimEvents } from "./events.ts";
import { planFailure, startFailure } from "./failure.ts";
import { signalScope } from "./messages.ts";
import type {
  AttachEnds,
  CreateRequest,
  ExecRequest,
  HostProgram,
  PrepareRequest,
  RunningExec,
  RunningHostProgram,
  RunRequest,
} from "./requests.ts";

export type ContainerRecord = RecordOfMessage<"container-state">;

/** Time for work of the shim's own; plans and time-outs of processes have theirs on top. */
const answerMs = 10_000;
const killSignal = 9;
/** Requests whose answer brings descriptors for the caller. */
const handsOver: ReadonlySet<MessageName> = new Set(["run", "create", "exec", "restore-prepare"]);

/** A pod's shim as it answered our hello: typed requests, failures as sentences. Made by connect.ts. */
export class Shim {
  readonly podId: string;
  readonly process: ProcessIdentity;
  readonly build: string;
  readonly protocol: number;
  /** Bit 0: the shim runs without newer system calls. */
  readonly features: number;
  readonly #client: ShimClient;
  readonly #ops: ReadonlySet<number>;
  readonly #messages: ReadonlySet<number>;
  readonly #events: ShimEvents;

  constructor(client: ShimClient, hello: RecordOfMessage<"hello-reply">, events: ShimEvents) {
    this.podId = hello.podId;
    this.process = { pid: hello.pid, startTicks: hello.startTicks };
    this.build = hello.build;
    this.protocol = hello.protocol;
    this.features = hello.features;
    this.#client = client;
    this.#ops = new Set(hello.ops);
    this.#messages = new Set(hello.messages);
    this.#events = events;
  }

  get connected(): boolean {
    return this.#client.connected;
  }

  knowsOp(name: OpName): boolean {
    return this.#ops.has(opSchemas[name].code);
  }

  knowsMessage(name: MessageName): boolean {
    return this.#messages.has(typeOfMessage(name));
  }

  /** Runs a plan in a child of its own. The descriptors that it exports are the caller's, in plan order. */
  async run(request: RunRequest): Promise<{ readonly exitCode: number; readonly fds: number[] }> {
    const { cloneKinds, deadlineMs, what } = request;
    const reply = await this.#ask("ok", {
      ...pick(request),
      name: "run",
      record: { cloneKinds, deadlineMs, plan: this.#encode(request.plan) },
      deadlineMs: deadlineMs + answerMs,
      what,
      explain: (failure) => planFailure(what, request.plan, failure),
    });
    return { exitCode: Number(reply.record.value), fds: reply.fds };
  }

  /** Resolves when init is parked. When it rejects, nothing of the container stays in the shim. */
  async create(request: CreateRequest): Promise<ProcessIdentity> {
    const { id, flags, cloneKinds, cgroup, killPaths, oomPath, logPath, logLineBytes, deadlineMs } = request;
    const what = `container ${id}`;
    const plan = this.#encode(request.plan);
    try {
      const reply = await this.#ask("created", {
        ...pick(request),
        name: "create",
        record: { id, flags, cloneKinds, cgroup, killPaths, oomPath, logPath, logLineBytes, deadlineMs, plan },
        deadlineMs: deadlineMs + answerMs,
        what,
        explain: (failure) => planFailure(what, request.plan, failure),
      });
      giveExports(request, reply.fds);
      return { pid: reply.record.pid, startTicks: reply.record.startTicks };
    } catch (error) {
      /* Given up by us, not by the shim: it may be at a barrier, or park in a moment. */
      if (!refusedByShim(error)) this.#client.post("forget", { id });
      throw error;
    }
  }

  /** Log and stdio of a container that will be restored. The three ends are the caller's; none for a terminal. */
  async restorePrepare(request: PrepareRequest): Promise<readonly number[]> {
    const { id, flags, cgroup, killPaths, oomPath, logPath, logLineBytes, signal } = request;
    const reply = await this.#ask("ok", {
      name: "restore-prepare",
      record: { id, flags, cgroup, killPaths, oomPath, logPath, logLineBytes },
      deadlineMs: answerMs,
      what: `container ${id}`,
      signal,
    });
    return reply.fds;
  }

  /** Makes a restored, frozen child of the shim the init of a prepared container; it waits for start(), which thaws it. */
  async restoreAdopt(id: string, pid: number, consoleFd: number | undefined): Promise<ProcessIdentity> {
    const { record } = await this.#ask("created", {
      name: "restore-adopt",
      record: { id, pid },
      fds: consoleFd === undefined ? [] : [consoleFd],
      deadlineMs: answerMs,
      what: `container ${id}`,
    });
    return { pid: record.pid, startTicks: record.startTicks };
  }

  /** Releases a parked init; resolves at its execve. */
  async start(id: string, signal?: AbortSignal): Promise<{ readonly startedAtNs: bigint }> {
    const what = `container ${id}`;
    const explain = (failure: RecordOfMessage<"failed">): RuntimeError => startFailure(what, failure);
    const reply = await this.#ask("started", { name: "start", record: { id }, deadlineMs: answerMs, what, explain, signal });
    return { startedAtNs: reply.record.atNs };
  }

  async exec(request: ExecRequest): Promise<RunningExec> {
    const { id, execId, cloneKinds, cgroup, timeoutMs } = request;
    const what = `exec in container ${id}`;
    const plan = this.#encode(request.plan);
    const ended = this.#events.awaitExec(id, execId);
    try {
      const reply = await this.#ask("exec-started", {
        ...pick(request),
        name: "exec",
        record: { id, execId, cloneKinds, cgroup, timeoutMs, plan },
        deadlineMs: timeoutMs + answerMs,
        what,
        explain: (failure) => planFailure(what, request.plan, failure),
      });
      return { pid: reply.record.pid, startedAtNs: reply.record.atNs, fds: reply.fds, ended };
    } catch (error) {
      this.#events.forgetExec(id, execId);
      if (!refusedByShim(error)) this.execKill(id, execId, killSignal);
      throw error;
    }
  }

  /** Signals the whole session of an exec; one that has ended is no error. */
  execKill(id: string, execId: string, signal: number): void {
    this.#client.post("exec-kill", { id, execId, signal });
  }

  /** Lets a running exec outlive this connection. One that has ended meanwhile is no error. */
  async execAdopt(id: string, execId: string): Promise<void> {
    try {
      await this.#confirm("exec-adopt", { id, execId }, `exec in container ${id}`);
    } catch (error) {
      if (!isErrno(error, "ESRCH")) throw error;
    }
  }

  /** A container that has ended is no error. */
  async signal(id: string, signal: number, scope: keyof typeof signalScope): Promise<void> {
    try {
      await this.#confirm("signal", { id, signal, scope: signalScope[scope] }, `container ${id}`);
    } catch (error) {
      if (!isErrno(error, "ESRCH")) throw error;
    }
  }

  async reopenLog(id: string, signal?: AbortSignal): Promise<void> {
    await this.#confirm("reopen-log", { id }, `log of container ${id}`, signal);
  }

  async list(): Promise<readonly ContainerRecord[]> {
    const records: ContainerRecord[] = [];
    await this.#ask("ok", {
      name: "list",
      record: {},
      deadlineMs: answerMs,
      what: `containers of pod ${this.podId}`,
      onItem: (message) => {
        if (message.name === "container-state") records.push(message.record);
      },
    });
    return records;
  }

  async ackExit(id: string): Promise<void> {
    await this.#confirm("ack-exit", { id }, `exit of container ${id}`);
  }

  /** Drops an exited or parked container. */
  async forget(id: string, signal?: AbortSignal): Promise<void> {
    await this.#confirm("forget", { id }, `container ${id}`, signal);
  }

  /** Ends the shim and everything that it started. Resolves before the process is gone. */
  async shutdown(signal?: AbortSignal): Promise<void> {
    await this.#confirm("shutdown", {}, `pod ${this.podId}`, signal);
  }

  /** Lets the shim become the binary of this image. This connection ends; connect again. */
  async reexec(imageFd: number): Promise<void> {
    await this.#ask("ok", {
      name: "reexec",
      record: {},
      fds: [imageFd],
      deadlineMs: answerMs,
      what: `shim of pod ${this.podId}`,
    });
  }

  async spawnHost(program: HostProgram): Promise<RunningHostProgram> {
    const { argv, env, cwd, deadlineMs } = program;
    return await this.#events.startHost(async () => {
      const reply = await this.#ask("ok", {
        ...pick(program),
        name: "spawn-host",
        record: { argv, env, cwd, deadlineMs },
        deadlineMs: answerMs,
        what: `host program ${JSON.stringify(argv[0])}`,
      });
      return Number(reply.record.value);
    });
  }

  /** Joins the client's ends of pipes to a container's stdio; what is given is joined. Their other ends close with the container. */
  async attach(id: string, ends: AttachEnds, signal?: AbortSignal): Promise<void> {
    const given = [ends.stdin, ends.stdout, ends.stderr];
    await this.#ask("ok", {
      name: "attach",
      record: { id, flags: given.reduce<number>((bits, fd, bit) => (fd === undefined ? bits : bits | (1 << bit)), 0) },
      fds: given.filter((fd) => fd !== undefined),
      deadlineMs: answerMs,
      what: `attach to container ${id}`,
      signal,
    });
  }

  async resize(id: string, execId: string, rows: number, cols: number): Promise<void> {
    await this.#confirm("resize", { id, execId, rows, cols }, `terminal of container ${id}`);
  }

  /** Lets go of the shim, which goes on; onLost is not called. */
  disconnect(): void {
    const error = new RuntimeError("unavailable", `the connection to the shim of pod ${this.podId} was closed`);
    this.#client.close();
    this.#events.rejectAll(error);
  }

  #encode(plan: Plan): Buffer {
    const unknown = plan.find((op) => !this.#ops.has(opSchemas[op.op].code));
    if (unknown !== undefined) throw this.#tooOld(`the operation ${unknown.op}`);
    return encodePlan(plan);
  }

  #tooOld(missing: string): RuntimeError {
    return new RuntimeError(
      "failed_precondition",
      `the shim of pod ${this.podId} (build ${this.build}) does not know ${missing}; recreate the pod`,
      { pod: this.podId },
    );
  }

  async #confirm<N extends MessageName>(name: N, record: RecordOfMessage<N>, what: string, signal?: AbortSignal): Promise<void> {
    await this.#ask("ok", { name, record, deadlineMs: answerMs, what, signal });
  }

  async #ask<N extends MessageName, A extends MessageName>(
    answer: A,
    request: Request<N>,
  ): Promise<Extract<Message, { name: A }>> {
    if (!this.knowsMessage(request.name)) throw this.#tooOld(`the request ${request.name}`);
    const reply = await this.#client.request(request);
    if (reply.name === answer) {
      if (!handsOver.has(request.name)) closeAll(reply.fds.splice(0));
      return reply as Extract<Message, { name: A }>;
    }
    closeAll(reply.fds);
    throw new RuntimeError(
      "internal",
      `${request.what}: the shim answered ${request.name} with ${reply.name}, expected ${answer}`,
    );
  }
}

function giveExports({ onExports }: Pick<CreateRequest, "onExports">, fds: number[]): void {
  if (onExports === undefined) closeAll(fds.splice(0));
  else onExports(fds);
}

/** Errors that failure.ts made carry `detail`: the shim has already undone its part. */
function refusedByShim(error: unknown): boolean {
  return error instanceof RuntimeError && error.fields.detail !== undefined;
}

type Options = Pick<Request<"run">, "fds" | "signal" | "onBarrier">;

function pick(options: Options): Options {
  const { fds, signal, onBarrier } = options;
  return { ...(fds === undefined ? {} : { fds }), ...(onBarrier === undefined ? {} : { onBarrier }), signal };
}
