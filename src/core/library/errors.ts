/** Errors whose texts callers match (libcontainer 1.2). */
import { RuntimeError } from "../../lib/errors.ts";

export const alreadyExists = () => new RuntimeError("already_exists", "container with given ID already exists");
export const invalidId = () => new RuntimeError("invalid_argument", "invalid container ID format");
export const doesNotExist = () => new RuntimeError("not_found", "container does not exist");
export const isPaused = () => new RuntimeError("failed_precondition", "container paused");
export const stillRunning = () => new RuntimeError("failed_precondition", "container still running");
export const notRunning = () => new RuntimeError("failed_precondition", "container not running");
export const notPaused = () => new RuntimeError("failed_precondition", "container not paused");
export const noCgroup = () => new RuntimeError("failed_precondition", "cgroup not exist");
export const invalidProcess = () => new RuntimeError("failed_precondition", "invalid process");
export const invalidConfig = (message: string) => new RuntimeError("invalid_argument", `invalid configuration: ${message}`);
