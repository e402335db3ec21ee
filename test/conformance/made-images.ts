/** Images of the suite's registry that cases are about, pushed once: what each declares. */
import { join } from "node:path";
import type { ContainerConfig, ImageOptions } from "../helpers/oci-image.ts";
import { buildBusyboxImage, buildImage, busyboxEntries } from "../helpers/oci-image.ts";
import { pushImage, type Registry } from "../helpers/registry.ts";

const configs: Readonly<Record<string, ContainerConfig>> = {
  entrypoint: {
    Entrypoint: ["/bin/echo", "entry"],
    Cmd: ["default"],
    WorkingDir: "/home",
    Env: ["PATH=/bin", "COLOUR=blue", "SHAPE=round"],
  },
  "stop-usr1": { StopSignal: "SIGUSR1" },
  "user-number": { User: "1000:2000" },
  "user-name": { User: "user:extra" },
  "user-plain": { User: "user" },
};

export async function pushMadeImages(registry: Registry, scratch: string): Promise<void> {
  const options = Object.entries(configs).map(([name, config]): [string, ImageOptions] => [name, { config }]);
  for (const [name, option] of options) {
    await pushImage(registry, `conformance/${name}`, "1", buildBusyboxImage(join(scratch, `image-${name}`), option));
  }
  const layers = [
    {
      content: [
        { name: "data/", type: "5" },
        { name: "data/version", content: "one" },
        { name: "top", content: "top" },
      ],
    },
  ];
  await pushImage(registry, "conformance/files", "1", buildImage(join(scratch, "image-files"), { layers }));
  const volume = {
    config: { Volumes: { "/volume": {} } },
    layers: [
      {
        content: [
          { name: "volume/", type: "5" },
          { name: "volume/given", content: "of the image\n" },
        ],
      },
    ],
  } satisfies ImageOptions;
  await pushImage(registry, "conformance/volume", "1", buildBusyboxImage(join(scratch, "image-volume"), volume));
  // Neither command nor environment.
  const bare = buildImage(join(scratch, "image-no-command"), { layers: [{ content: busyboxEntries() }] });
  await pushImage(registry, "conformance/no-command", "1", bare);
}
