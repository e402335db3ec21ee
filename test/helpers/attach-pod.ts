/** A process of its own that attaches a pod, so that a test can kill it meanwhile: attach-pod.ts OPTIONS REQUEST (JSON). */
import { openPodNetwork } from "../../src/network/cni-network.ts";

const [options = "", request = ""] = process.argv.slice(2);
const network = await openPodNetwork(JSON.parse(options));
await network.attach(JSON.parse(request), new AbortController().signal);
network.close();
