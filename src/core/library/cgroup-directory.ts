/** Directory of a v1 controller among recorded ones, whose keys name all controllers of a hierarchy. */
export function directoryOfController(directories: Readonly<Record<string, string>>, controller: string): string | undefined {
  return Object.entries(directories).find(([key]) => key.split(",").includes(controller))?.[1];
}
