/**
 * What lives in the IPC namespace of a pod itself, not in a process: CRIU saves processes inside that namespace, and leaves these out. A
 * checkpoint without them would be restored to programs that miss them, so it is refused.
 */
import { readdirSync, readFileSync } from "node:fs";
import { RuntimeError } from "../../lib/errors.ts";
import { addon } from "../../native/addon.ts";
import type { Op, Plan } from "../plan.ts";
import { nsKind, podPin } from "../plan-schema.ts";

const lists = [
  ["shm", "System V shared memory"],
  ["sem", "System V semaphores"],
  ["msg", "System V message queues"],
] as const;
const mostNamed = 5;

/** Sends back the lists, then the root of the pod's POSIX message queues. */
export function planIpcObjects(): { readonly cloneKinds: number; readonly plan: Plan } {
  const opens = [
    ...lists.map(([name], out): Op => ({ op: "open-sysv-list", out, name })),
    { op: "fsmount", out: lists.length, type: "mqueue", source: "mqueue", options: [], attrs: 0 } satisfies Op,
  ];
  return {
    cloneKinds: 0,
    plan: [
      { op: "join-ns", slot: podPin.ipc, kind: nsKind.ipc },
      ...opens,
      ...opens.map((_, slot): Op => ({ op: "export", slot })),
    ],
  };
}

/** Takes the descriptors of `planIpcObjects`. @throws RuntimeError failed_precondition, naming what there is. */
export function refuseIpcObjects(podId: string, fds: readonly number[]): void {
  try {
    const [queues = -1, ...sysv] = fds.toReversed();
    const found = lists.flatMap(([, kind], index) => {
      const ids = objectsOf(readFileSync(sysv[lists.length - 1 - index] ?? -1, "utf8"));
      return ids.length === 0 ? [] : [`${kind} (${named(ids)})`];
    });
    const names = readdirSync(`/proc/self/fd/${queues}`);
    if (names.length > 0) found.push(`POSIX message queues (${named(names.map((name) => `/${name}`))})`);
    if (found.length === 0) return;
    throw new RuntimeError(
      "failed_precondition",
      `pod ${podId} cannot be checkpointed: its IPC namespace holds ${found.join(", ")}, which CRIU does not save there; end or remove what uses them`,
    );
  } finally {
    for (const fd of fds) addon.close(fd);
  }
}

/** Of the text of /proc/sysvipc/X: "id 3, key 0x1f" of each object. */
export function objectsOf(text: string): readonly string[] {
  return text
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const [key, id] = line.trim().split(/\s+/);
      if (key === undefined || id === undefined) return [];
      // A signed number in the list, an unsigned one to everybody else.
      return [Number(key) === 0 ? `id ${id}` : `id ${id}, key 0x${(Number(key) >>> 0).toString(16)}`];
    });
}

function named(all: readonly string[]): string {
  const more = all.length - mostNamed;
  return `${all.slice(0, mostNamed).join("; ")}${more > 0 ? `; ${more} more` : ""}`;
}
