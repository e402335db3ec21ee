/** Volumes: mounts of a container. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect } from "vitest";
import type { Message } from "../helpers/cri-client.ts";
import { clause } from "./clause.ts";
import { codes, forever, refused, unique, useCri } from "./cri.ts";

const cri = useCri();
const hostDirectory = (): string => {
  const path = join(cri.endpoint.scratch, unique("volume"));
  mkdirSync(path);
  return path;
};
const mount = (...args: string[]): void => void execFileSync("mount", args, { stdio: "ignore" });
const mounted: string[] = [];
/** A tmpfs on the host whose mount events reach others or not. */
const hostMount = (propagation: "shared" | "private"): string => {
  const path = hostDirectory();
  mount("-t", "tmpfs", "caisson-conformance", path);
  mounted.push(path);
  mount(`--make-${propagation}`, path);
  return path;
};
afterEach(() => {
  for (const path of mounted.splice(0)) execFileSync("umount", ["-R", "-l", path], { stdio: "ignore" });
});
const withMounts = (...mounts: Message[]): Message => ({ mounts });

describe("mounts", () => {
  clause("a directory of the host is mounted read-write, or read-only when asked for", async () => {
    const host_path = hostDirectory();
    writeFileSync(join(host_path, "given"), "from the host");
    const more = withMounts({ container_path: "/rw", host_path }, { container_path: "/ro", host_path, readonly: true });
    const { out } = await cri.says("cat /rw/given; echo; echo x > /rw/made; touch /ro/x 2>/dev/null || echo ro", more);
    expect(out).toBe("from the host\nro");
    expect(readFileSync(join(host_path, "made"), "utf8")).toBe("x\n");
  });

  clause("a single file is mounted", async () => {
    const host_path = join(hostDirectory(), "file");
    writeFileSync(host_path, "one file");
    const { out } = await cri.says("cat /etc/one; stat -c %F /etc/one", withMounts({ container_path: "/etc/one", host_path }));
    expect(out).toBe("one fileregular file");
  });

  clause("a host path that is a symbolic link is followed", async () => {
    const real = hostDirectory();
    writeFileSync(join(real, "f"), "behind");
    symlinkSync(real, `${real}-link`);
    expect(await cri.says("cat /m/f", withMounts({ container_path: "/m", host_path: `${real}-link` }))).toMatchObject({
      out: "behind",
    });
  });

  clause("a host path that is missing is an error, or made as a directory of mode 0755", async () => {
    const host_path = join(cri.endpoint.scratch, unique("missing"), "deep");
    const pod = await cri.sharedPod();
    const attempt = async (): Promise<void> => {
      const id = await cri.run(pod, cri.containerConfig(["/bin/true"], withMounts({ container_path: "/m", host_path })));
      await cri.exited(id);
    };
    if (
      await attempt().then(
        () => true,
        () => false,
      )
    ) {
      expect(statSync(host_path).isDirectory()).toBe(true);
      expect(statSync(host_path).mode & 0o777).toBe(0o755);
    }
  });

  clause("a container path that the image lacks is made", async () => {
    const host_path = hostDirectory();
    expect(
      await cri.says("cd /quite/new/path && pwd", withMounts({ container_path: "/quite/new/path", host_path })),
    ).toMatchObject({
      out: "/quite/new/path",
    });
  });

  clause("mounts below mounts are visible in whatever order they were given", async () => {
    const [outer, inner] = [hostDirectory(), hostDirectory()];
    writeFileSync(join(inner, "deep"), "seen");
    mkdirSync(join(outer, "in"));
    const more = withMounts({ container_path: "/a/in", host_path: inner }, { container_path: "/a", host_path: outer });
    expect(await cri.says("cat /a/in/deep", more)).toMatchObject({ out: "seen" });
  });

  clause("a mount of the pod at the place of a file or mount of the runtime wins", async () => {
    const host_path = join(hostDirectory(), "hosts");
    writeFileSync(host_path, "192.0.2.9 own\n");
    const shm = hostDirectory();
    writeFileSync(join(shm, "own"), "");
    const more = withMounts({ container_path: "/etc/hosts", host_path }, { container_path: "/dev/shm", host_path: shm });
    expect(await cri.says("cat /etc/hosts; ls /dev/shm", more)).toMatchObject({ out: "192.0.2.9 own\nown" });
  });

  clause("what the host has mounted below the source is there too", async () => {
    const host_path = hostMount("private");
    mkdirSync(join(host_path, "sub"));
    mount("-t", "tmpfs", "caisson-conformance", join(host_path, "sub"));
    writeFileSync(join(host_path, "sub", "f"), "below");
    expect(await cri.says("cat /m/sub/f", withMounts({ container_path: "/m", host_path }))).toMatchObject({ out: "below" });
  });

  clause("a relative container path does not escape the root", async () => {
    const host_path = hostDirectory();
    const pod = await cri.sharedPod();
    const container_path = "/../../../../caisson-escape";
    const id = await cri
      .run(pod, cri.containerConfig(["/bin/true"], withMounts({ container_path, host_path })))
      .catch(() => undefined);
    if (id !== undefined) await cri.exited(id);
    expect(existsSync("/caisson-escape")).toBe(false);
  });
});

describe("mount propagation", () => {
  const seenAfterwards = async (propagation: string, host_path: string): Promise<string> => {
    const id = await cri.run(
      await cri.sharedPod(),
      cri.containerConfig(forever, withMounts({ container_path: "/m", host_path, propagation })),
    );
    mkdirSync(join(host_path, "late"));
    mount("-t", "tmpfs", "caisson-conformance", join(host_path, "late"));
    writeFileSync(join(host_path, "late", "f"), "late");
    return (await cri.exec(id, "cat /m/late/f 2>/dev/null || echo unseen")).out;
  };

  clause("PRIVATE: what the host mounts later is not seen", async () => {
    expect(await seenAfterwards("PROPAGATION_PRIVATE", hostMount("shared"))).toBe("unseen");
  });

  clause("HOST_TO_CONTAINER: what the host mounts later is seen", async () => {
    expect(await seenAfterwards("PROPAGATION_HOST_TO_CONTAINER", hostMount("shared"))).toBe("late");
  });

  clause("HOST_TO_CONTAINER needs a source that is shared or a slave, BIDIRECTIONAL one that is shared", async () => {
    const pod = await cri.sharedPod();
    const config = (propagation: string): Message =>
      cri.containerConfig(forever, withMounts({ container_path: "/m", host_path: hostMount("private"), propagation }));
    await refused(cri.create(pod, config("PROPAGATION_HOST_TO_CONTAINER")), codes.any);
    await refused(cri.create(pod, config("PROPAGATION_BIDIRECTIONAL")), codes.any);
  });

  clause("BIDIRECTIONAL: what the container mounts is seen on the host", async () => {
    const pod = await cri.pod({ linux: { security_context: { privileged: true } } });
    const host_path = hostMount("shared");
    const id = await cri.run(
      pod,
      cri.containerConfig(["/bin/sh", "-c", "mkdir /m/own && mount -t tmpfs own /m/own && echo ready && sleep 1000"], {
        ...withMounts({ container_path: "/m", host_path, propagation: "PROPAGATION_BIDIRECTIONAL" }),
        linux: { security_context: { privileged: true } },
      }),
    );
    await cri.logged(id, "ready");
    expect(readFileSync("/proc/self/mountinfo", "utf8")).toContain(`${host_path}/own `);
  });

  clause("HOST_TO_CONTAINER: what the container mounts is not seen on the host", async () => {
    const pod = await cri.pod({ linux: { security_context: { privileged: true } } });
    const host_path = hostMount("shared");
    const id = await cri.run(
      pod,
      cri.containerConfig(["/bin/sh", "-c", "mkdir /m/own && mount -t tmpfs own /m/own && echo ready && sleep 1000"], {
        ...withMounts({ container_path: "/m", host_path, propagation: "PROPAGATION_HOST_TO_CONTAINER" }),
        linux: { security_context: { privileged: true } },
      }),
    );
    await cri.logged(id, "ready");
    expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(`${host_path}/own `);
  });
});

describe("recursive read-only mounts", () => {
  const conditions = { since: "1.30", needs: "recursive read-only mounts" } as const;

  clause("recursive_read_only makes what is mounted below read-only too", conditions, async () => {
    const host_path = hostMount("private");
    mkdirSync(join(host_path, "sub"));
    mount("-t", "tmpfs", "caisson-conformance", join(host_path, "sub"));
    const script = "touch /m/sub/x 2>/dev/null && echo rw || echo ro";
    const readonly = { container_path: "/m", host_path, readonly: true };
    expect(await cri.says(script, withMounts(readonly))).toMatchObject({ out: "rw" });
    expect(await cri.says(script, withMounts({ ...readonly, recursive_read_only: true }))).toMatchObject({ out: "ro" });
  });

  clause("recursive_read_only needs readonly and private propagation", conditions, async () => {
    const pod = await cri.sharedPod();
    const wrong = [
      { readonly: false, propagation: "PROPAGATION_PRIVATE" },
      { readonly: true, propagation: "PROPAGATION_HOST_TO_CONTAINER" },
    ];
    for (const more of wrong) {
      const one = { container_path: "/m", host_path: hostMount("shared"), recursive_read_only: true, ...more };
      await refused(cri.create(pod, cri.containerConfig(forever, withMounts(one))), codes.any);
    }
  });
});

describe("image volumes", () => {
  const conditions = { since: "1.31", madeImages: true } as const;
  const files = async (): Promise<string> => await cri.pull(`${cri.endpoint.registry}/conformance/files:1`);
  const volume = async (more: Message = {}): Promise<Message> =>
    withMounts({ container_path: "/image", readonly: true, image: { image: await files() }, ...more });
  const creation = async (more: Message): Promise<string> =>
    await cri.create(await cri.sharedPod(), cri.containerConfig(forever, await volume(more)));

  clause("the image's files are there, read-only", conditions, async () => {
    const { out } = await cri.says("cat /image/top /image/data/version; touch /image/x 2>/dev/null || echo ro", await volume());
    expect(out).toBe("toponero");
  });

  clause(
    "an image that is not on the node, a writable mount, or a host path beside the image is an error",
    conditions,
    async () => {
      await refused(creation({ image: { image: "registry.test/conformance/never:1" } }), codes.any);
      await refused(creation({ readonly: false }), codes.any);
      await refused(creation({ host_path: hostDirectory() }), codes.any);
    },
  );

  clause("image_sub_path is what is mounted of the image", { ...conditions, since: "1.33" }, async () => {
    expect(await cri.says("ls /image; cat /image/version", await volume({ image_sub_path: "data" }))).toMatchObject({
      out: "version\none",
    });
  });

  clause("image_sub_path must be in the image and not lead out of it", { ...conditions, since: "1.33" }, async () => {
    for (const image_sub_path of ["missing", "../etc", "data/../../etc"]) await refused(creation({ image_sub_path }), codes.any);
  });
});
