/** Where the verbs keep things: ARCHITECTURE.md, "State on disk". */
import { join } from "node:path";
import type { CriConfig } from "./app-types.ts";

export const podsDir = (config: CriConfig): string => join(config.stateDir, "pods");
export const podDir = (config: CriConfig, podId: string): string => join(podsDir(config), podId);
export const podRecordPath = (config: CriConfig, podId: string): string => join(podDir(config, podId), "record.json");
export const bundlesDir = (config: CriConfig, podId: string): string => join(podDir(config, podId), "containers");
export const bundleDir = (config: CriConfig, podId: string, id: string): string => join(bundlesDir(config, podId), id);
export const containerRecordPath = (config: CriConfig, podId: string, id: string): string =>
  join(bundleDir(config, podId, id), "record.json");
export const bundleConfigPath = (config: CriConfig, podId: string, id: string): string =>
  join(bundleDir(config, podId, id), "config.json");

export const netnsPath = (config: CriConfig, podId: string): string => join(config.netnsDir, `caisson-${podId}`);

/** Writable layers: below the root directory, so that they survive a reboot. */
export const writableLayersDir = (config: CriConfig): string => join(config.rootDir, "containers");
export const writableLayerDir = (config: CriConfig, id: string): string => join(writableLayersDir(config), id);
export const upperDir = (config: CriConfig, id: string): string => join(writableLayerDir(config, id), "upper");
export const workDir = (config: CriConfig, id: string): string => join(writableLayerDir(config, id), "work");
/** Where an image that is mounted has one layer only. */
export const spareDir = (config: CriConfig, id: string): string => join(writableLayerDir(config, id), "spare");
export const volumesDir = (config: CriConfig, id: string): string => join(writableLayerDir(config, id), "volumes");

/** Mount points of the containers' roots, empty directories on the node's side. */
export const attachPointsDir = (config: CriConfig): string => join(config.stateDir, "containers");

/** Checkpoints being made or unpacked: of no use after a restart. */
export const checkpointsDir = (config: CriConfig): string => join(config.rootDir, "checkpoints");

export const isObjectId = (name: string): boolean => /^[0-9a-f]{64}$/.test(name);
