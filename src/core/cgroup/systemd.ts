/** What we ask of systemd over D-Bus: units come, change, and go. Each job is waited for. */
import { setTimeout as sleep } from "node:timers/promises";
import { DbusConnection } from "../../lib/dbus/connection.ts";
import type { DbusMessage } from "../../lib/dbus/message.ts";
import type { DbusValue, Variant } from "../../lib/dbus/signature.ts";
import { codeOf, RuntimeError, wrapError } from "../../lib/errors.ts";
import type { UnitProperty } from "./systemd-properties.ts";

const answerMs = 25_000;
const jobMs = 30_000;
/** systemd's word may be lost when it re-executes itself: the unit is looked at as well. */
const lookMs = 2_000;

const service = { destination: "org.freedesktop.systemd1", path: "/org/freedesktop/systemd1" };
const manager = "org.freedesktop.systemd1.Manager";
const scopeInterface = "org.freedesktop.systemd1.Scope";
const jobRule = `type='signal',sender='${service.destination}',interface='${manager}',member='JobRemoved'`;

const systemBus = "/run/dbus/system_bus_socket";

interface JobEnd {
  readonly job: string;
  readonly result: string;
}

/** One bus connection for all, made when it is needed and again when it was lost. */
export class Systemd implements Disposable {
  readonly #socket: string;
  #connecting: Promise<DbusConnection> | undefined;
  /** By unit: who waits for the end of a job of it. */
  readonly #waiters = new Map<string, Set<(end: JobEnd) => void>>();
  #version: number | undefined;

  constructor(socket: string = systemBus) {
    this.#socket = socket;
  }

  /** 252 and so on. `unavailable` without a bus. */
  async version(): Promise<number> {
    if (this.#version !== undefined) return this.#version;
    const said = await this.#property(service.path, manager, "Version");
    const [digits] = /\d+/.exec(String(said)) ?? [];
    this.#version = Number(digits ?? 0);
    return this.#version;
  }

  /**
   * Makes and starts a transient unit. A failed one of the same name is reset first.
   * @throws RuntimeError already_exists, deadline_exceeded, failed_precondition with systemd's result.
   */
  async startTransient(unit: string, properties: readonly UnitProperty[]): Promise<void> {
    const body = [unit, "replace", properties, []];
    const start = () => this.#job(unit, "active", "StartTransientUnit", "ssa(sv)a(sa(sv))", body);
    try {
      await start();
    } catch (error) {
      if (dbusErrorOf(error) !== unitExists) throw wrapError(`systemd does not start ${unit}`, error);
      await this.#resetFailed(unit);
      await start().catch((again: unknown) => {
        if (dbusErrorOf(again) !== unitExists) throw wrapError(`systemd does not start ${unit}`, again);
        throw new RuntimeError("already_exists", `systemd has a unit ${unit} already; stop it`, {}, again);
      });
    }
  }

  /** A unit that is not there is success. */
  async stop(unit: string): Promise<void> {
    try {
      await this.#job(unit, "gone", "StopUnit", "ss", [unit, "replace"]);
    } catch (error) {
      if (!isGone(error)) throw wrapError(`systemd does not stop ${unit}`, error);
      return;
    }
    await this.#resetFailed(unit);
  }

  /** Until the unit goes; nothing is written to disk. */
  async setProperties(unit: string, properties: readonly UnitProperty[]): Promise<void> {
    if (properties.length === 0) return;
    try {
      await this.#call("SetUnitProperties", "sba(sv)", [unit, true, properties]);
    } catch (error) {
      throw wrapError(`systemd does not change ${unit}`, error);
    }
  }

  /** What a scope has now for each of these properties, in a form that `setProperties` takes. */
  async scopeProperties(unit: string, properties: readonly UnitProperty[]): Promise<readonly UnitProperty[]> {
    if (properties.length === 0) return [];
    try {
      const [path] = await this.#call("GetUnit", "s", [unit]);
      return await Promise.all(
        properties.map(async ([name, { signature }]): Promise<UnitProperty> => {
          return [name, { signature, value: await this.#property(String(path), scopeInterface, name) }];
        }),
      );
    } catch (error) {
      throw wrapError(`systemd does not tell the limits of ${unit}`, error);
    }
  }

  [Symbol.dispose](): void {
    const connecting = this.#connecting;
    this.#connecting = undefined;
    connecting?.then((connection) => connection.close()).catch(() => {});
  }

  async #resetFailed(unit: string): Promise<void> {
    await this.#call("ResetFailedUnit", "s", [unit]).catch((error: unknown) => {
      if (!isGone(error)) throw error;
    });
  }

  /** Listens before it asks: the job may have ended before the answer is read. */
  async #job(
    unit: string,
    want: "active" | "gone",
    member: string,
    signature: string,
    body: readonly DbusValue[],
  ): Promise<void> {
    const ends: JobEnd[] = [];
    let wake = (): void => {};
    const waiter = (end: JobEnd): void => {
      ends.push(end);
      wake();
    };
    const waiters = this.#waiters.get(unit) ?? new Set();
    this.#waiters.set(unit, waiters.add(waiter));
    try {
      const [job] = await this.#call(member, signature, body);
      const until = performance.now() + jobMs;
      for (;;) {
        const end = ends.find((each) => each.job === job);
        if (end !== undefined) return checkResult(unit, member, end.result);
        if (await this.#reached(unit, want, () => new Promise((resolve) => (wake = resolve)))) return;
        if (performance.now() > until) {
          throw new RuntimeError("deadline_exceeded", `${member} of ${unit} did not end in ${jobMs} ms`, { unit });
        }
      }
    } finally {
      waiters.delete(waiter);
      if (waiters.size === 0) this.#waiters.delete(unit);
    }
  }

  /** Waits for news; when none comes, whether the unit is as it shall be. */
  async #reached(unit: string, want: "active" | "gone", news: () => Promise<void>): Promise<boolean> {
    const stop = new AbortController();
    const quiet = sleep(lookMs, true, { signal: stop.signal }).catch(() => false);
    const silent = await Promise.race([news().then(() => false), quiet]);
    stop.abort();
    if (!silent) return false;
    const state = await this.#activeState(unit);
    return want === "active" ? state === "active" : state === undefined || state === "inactive" || state === "failed";
  }

  async #activeState(unit: string): Promise<string | undefined> {
    try {
      const [path] = await this.#call("GetUnit", "s", [unit]);
      return String(await this.#property(String(path), "org.freedesktop.systemd1.Unit", "ActiveState"));
    } catch (error) {
      if (isGone(error)) return undefined;
      throw error;
    }
  }

  async #property(path: string, of: string, name: string): Promise<DbusValue> {
    const connection = await this.#connection();
    const [variant] = await connection.call({
      destination: service.destination,
      path,
      interface: "org.freedesktop.DBus.Properties",
      member: "Get",
      signature: "ss",
      body: [of, name],
    });
    return (variant as Variant).value;
  }

  async #call(member: string, signature: string, body: readonly DbusValue[]): Promise<readonly DbusValue[]> {
    return await (await this.#connection()).call({ ...service, interface: manager, member, signature, body });
  }

  async #connection(): Promise<DbusConnection> {
    const known = this.#connecting;
    const connection = await known?.catch(() => undefined);
    if (connection?.connected === true) return connection;
    // Whoever sees first that it is lost makes a new one; the others take that.
    if (this.#connecting === known || this.#connecting === undefined) this.#connecting = this.#connect();
    return await this.#connecting;
  }

  async #connect(): Promise<DbusConnection> {
    const onSignal = (signal: DbusMessage): void => this.#heard(signal);
    try {
      const connection = await DbusConnection.open({ path: this.#socket, onSignal, deadlineMs: answerMs });
      await connection.subscribe(jobRule);
      // Without it systemd tells nobody of its jobs.
      await connection.call({ ...service, interface: manager, member: "Subscribe" });
      return connection;
    } catch (error) {
      throw wrapError("systemd cannot be reached over D-Bus (is the dbus service running?)", error);
    }
  }

  /** JobRemoved(u id, o job, s unit, s result). */
  #heard({ interface: from, member, signature, body }: DbusMessage): void {
    if (from !== manager || member !== "JobRemoved" || signature !== "uoss") return;
    const [, job, unit, result] = body as readonly [number, string, string, string];
    for (const waiter of this.#waiters.get(unit) ?? []) waiter({ job, result });
  }
}

const unitExists = "org.freedesktop.systemd1.UnitExists";
const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit";

function dbusErrorOf(error: unknown): string {
  return error instanceof RuntimeError ? String(error.fields.dbusError ?? "") : "";
}

function isGone(error: unknown): boolean {
  return dbusErrorOf(error) === noSuchUnit;
}

function checkResult(unit: string, member: string, result: string): void {
  if (result === "done") return;
  const code = result === "timeout" ? "deadline_exceeded" : "failed_precondition";
  throw new RuntimeError(code, `the job ${member} of ${unit} ended with ${result}; see systemctl status ${unit}`, {
    unit,
    result,
  });
}

/** Whether something is to be tried again later rather than given up. */
export function isUnreachable(error: unknown): boolean {
  const code = codeOf(error);
  return code === "unavailable" || code === "deadline_exceeded";
}
