/** A failure that is shown as one sentence, with its exit code. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  readonly exitCode: number;

  constructor(message: string, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

export const wrongUsage = 64;

export function misused(message: string): CommandError {
  return new CommandError(`${message}; see caisson --help`, wrongUsage);
}
