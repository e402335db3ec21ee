import { readdir } from "node:fs/promises";

/** Sizes of huge pages that the kernel has, as the hugetlb controller and the CRI name them: "2MB", "1GB". */
export async function hugePageSizes(): Promise<readonly string[]> {
  const names = await readdir("/sys/kernel/mm/hugepages").catch(() => []);
  const kib = names.map((name) => Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0)).filter((size) => size > 0);
  return kib.map((size) => (size >= 1 << 20 ? `${size / (1 << 20)}GB` : size >= 1 << 10 ? `${size / (1 << 10)}MB` : `${size}KB`));
}
