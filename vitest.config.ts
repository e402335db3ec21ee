import { defineConfig } from "vitest/config";

/** Real containers, one file at a time: they share the machine's cgroups, mounts and network. */
const leakFree = { setupFiles: ["test/helpers/leak-setup.ts"] };
const serial = { fileParallelism: false, maxWorkers: 1, testTimeout: 60_000, hookTimeout: 120_000 } as const;

// biome-ignore lint/style/noDefaultExport: vitest reads its configuration from the default export
export default defineConfig({
  test: {
    pool: "forks",
    reporters: ["default"],
    // A daemon, a registry and the leak check may have to end after the last test.
    teardownTimeout: 60_000,
    projects: [
      { extends: true, test: { name: "unit", include: ["test/unit/**/*.test.ts"], testTimeout: 20_000 } },
      { extends: true, test: { name: "native", include: ["test/native/**/*.test.ts"], ...serial } },
      { extends: true, test: { name: "integration", include: ["test/integration/**/*.test.ts"], ...serial, ...leakFree } },
      {
        extends: true,
        test: {
          name: "conformance",
          include: ["test/conformance/**/*.test.ts"],
          globalSetup: "test/conformance/setup.ts",
          ...serial,
        },
      },
      { extends: true, test: { name: "faults", include: ["test/faults/**/*.test.ts"], ...serial, ...leakFree } },
    ],
  },
});
