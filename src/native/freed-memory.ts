import { constants, PerformanceObserver } from "node:perf_hooks";
import { addon } from "./addon.ts";

const afterMs = 1000;

/**
 * What the collector frees goes back to the kernel, some time after each collection of the old generation: glibc keeps what lies between
 * blocks in use, which after a burst of large requests is a fifth of all memory.
 */
export function returnFreedMemory(): Disposable {
  let timer: NodeJS.Timeout | undefined;
  const trim = (): void => {
    timer = undefined;
    addon.trimMemory();
  };
  const observer = new PerformanceObserver((list) => {
    const entries = list.getEntries() as readonly { readonly detail?: { readonly kind?: number } }[];
    const major = entries.some(({ detail }) => detail?.kind === constants.NODE_PERFORMANCE_GC_MAJOR);
    if (major) timer ??= setTimeout(trim, afterMs).unref();
  });
  observer.observe({ entryTypes: ["gc"] });
  return {
    [Symbol.dispose]: () => {
      observer.disconnect();
      clearTimeout(timer);
    },
  };
}
