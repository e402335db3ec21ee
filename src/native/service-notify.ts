import { addon } from "./addon.ts";

/** Tells the service manager (sd_notify) how the daemon is. Without one every call does nothing. */
export interface ServiceNotify {
  /** "READY=1", "STOPPING=1", "STATUS=text"; several with newlines between. */
  send(state: string): void;
  /** Says every half of the watchdog's interval that the event loop turns, where the unit asks for it. */
  startWatchdog(): void;
  close(): void;
}

/** Takes the variables out of the environment: what the daemon starts must not speak in its name. */
export function openServiceNotify(environment: NodeJS.ProcessEnv, onError: (error: unknown) => void): ServiceNotify {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = environment;
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete environment[name];
  const send = (state: string): void => {
    if (socket === undefined || socket === "") return;
    try {
      addon.sendDatagram(socket, Buffer.from(state));
    } catch (error) {
      onError(error);
    }
  };
  const intervalMs = pid === undefined || Number(pid) === process.pid ? Number(usec ?? 0) / 1000 : 0;
  let timer: NodeJS.Timeout | undefined;
  return {
    send,
    startWatchdog: () => {
      if (intervalMs > 0) timer ??= setInterval(() => send("WATCHDOG=1"), intervalMs / 2).unref();
    },
    close: () => clearInterval(timer),
  };
}
