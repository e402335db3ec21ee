/**
 * What a client can get wrong in each field of CRI's requests: for every field one wrong value at least, with the gRPC code and the
 * words of the answer, or why no value of it is wrong. Fields are named as the proto file does, by message: one rule holds wherever a
 * message stands.
 */
import { grpcStatus, type Message } from "./cri-client.ts";

const { INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION } = grpcStatus;

/** What the wrong requests are made of: an object of each kind, and a valid config of each. */
export interface Ground {
  readonly podId: string;
  readonly pod: () => Message;
  readonly container: () => Message;
  readonly emptyDirectory: string;
  /** Runs. */
  readonly containerId: string;
}

export interface Wrong {
  readonly method: string;
  readonly request: (ground: Ground) => Message;
  readonly code: number;
  readonly text: RegExp;
}

type Patch = Record<string, unknown>;
const wrong = (method: string, request: Wrong["request"], text: RegExp, code: number = INVALID_ARGUMENT): Wrong => ({
  method,
  request,
  code,
  text,
});

const sandbox = (patch: Patch, text: RegExp, code?: number): Wrong =>
  wrong("RunPodSandbox", ({ pod }) => ({ config: { ...pod(), ...patch } }), text, code);
const sandboxLinux = (patch: Patch, text: RegExp, code?: number): Wrong =>
  wrong("RunPodSandbox", ({ pod }) => ({ config: { ...pod(), linux: { ...pod().linux, ...patch } } }), text, code);
const onPodNetwork = (patch: Patch, text: RegExp): Wrong =>
  wrong(
    "RunPodSandbox",
    ({ pod }) => ({ config: withSecurity({ ...pod(), ...patch }, { namespace_options: { network: "POD" } }) }),
    text,
  );
const podSecurity = (patch: Patch, text: RegExp, code?: number): Wrong =>
  wrong("RunPodSandbox", ({ pod }) => ({ config: withSecurity(pod(), patch) }), text, code);
const container = (patch: Patch, text: RegExp, code?: number): Wrong =>
  wrong(
    "CreateContainer",
    ({ podId, pod, container }) => ({ pod_sandbox_id: podId, config: { ...container(), ...patch }, sandbox_config: pod() }),
    text,
    code,
  );
const security = (patch: Patch, text: RegExp, code?: number): Wrong =>
  wrong(
    "CreateContainer",
    ({ podId, pod, container }) => ({ pod_sandbox_id: podId, config: withSecurity(container(), patch), sandbox_config: pod() }),
    text,
    code,
  );
const limits = (resources: Patch, text: RegExp, code?: number): Wrong[] => [
  container({ linux: { resources } }, text, code),
  wrong("UpdateContainerResources", ({ containerId }) => ({ container_id: containerId, linux: resources }), text, code),
];
const mount = (patch: Patch, text: RegExp, code?: number): Wrong =>
  container({ mounts: [{ container_path: "/data", host_path: "/tmp", ...patch }] }, text, code);
const device = (patch: Patch, text: RegExp): Wrong =>
  container({ devices: [{ container_path: "/dev/x", host_path: "/dev/null", permissions: "rw", ...patch }] }, text);
const port = (patch: Patch, text: RegExp): Wrong =>
  onPodNetwork({ port_mappings: [{ protocol: "TCP", container_port: 80, host_port: 8080, host_ip: "", ...patch }] }, text);
/** Limits of the pod: the sum of its containers', and what the sandbox itself costs. */
const podLimits = (field: "overhead" | "resources"): Wrong[] => {
  const bad = { [field]: { cpu_period: "10" } };
  return [
    sandboxLinux(bad, new RegExp(`${field} of the sandbox: cpu_period 10 is outside`)),
    sandboxLinux({ [field]: { memory_limit_in_bytes: "-1" } }, new RegExp(`${field} of the sandbox: memory_limit_in_bytes -1`)),
  ];
};
const podUpdate = (field: "overhead" | "resources"): Wrong[] => [
  wrong(
    "UpdatePodSandboxResources",
    ({ podId }) => ({ pod_sandbox_id: podId, [field]: { cpu_quota: "-2" } }),
    new RegExp(`${field} of the sandbox: cpu_quota -2 is neither`),
  ),
];
const userNamespace = (userns_options: Patch, text: RegExp): Wrong =>
  podSecurity({ namespace_options: { network: "POD", userns_options } }, text);
const mapping = (patch: Patch, text: RegExp): Wrong => {
  const good = { host_id: 100_000, container_id: 0, length: 65_536 };
  return userNamespace({ mode: "POD", uids: [{ ...good, ...patch }], gids: [good] }, text);
};
const image = (patch: Patch, text: RegExp, code?: number): Wrong[] => [wrong("PullImage", () => ({ image: patch }), text, code)];

function withSecurity(config: Message, patch: Patch): Message {
  return { ...config, linux: { ...config.linux, security_context: { ...config.linux.security_context, ...patch } } };
}

const nobody = "e".repeat(64);
/** An id that is missing, and one that belongs to nothing. */
function id(method: string, field: string, more: Patch = {}): Wrong[] {
  return [
    wrong(method, () => ({ ...more, [field]: "" }), /names no|id|empty/),
    wrong(method, () => ({ ...more, [field]: nobody }), /e{13}/, NOT_FOUND),
  ];
}
/** Of verbs that are done when there is nothing to do. */
const idempotent = (method: string, field: string): Wrong[] => id(method, field).slice(0, 1);

const long = "n".repeat(300);
const label = "labels and annotations are the client's own; Caisson keeps them as they are";
const flag = "either value of a flag is good";
const filter = "a filter that fits nothing finds nothing";
const windows = "Caisson is not for Windows: a client for Linux leaves it unset";
const message = "its own fields are what can be wrong";
const count = "any number is a count of attempts";

export const requestFields: Readonly<Record<string, string | readonly Wrong[]>> = {
  "VersionRequest.version": "the client's version of the kubelet's API: any is answered with ours",
  "RunPodSandboxRequest.config": [wrong("RunPodSandbox", () => ({ config: null }), /config/)],
  "RunPodSandboxRequest.runtime_handler": [
    wrong("RunPodSandbox", ({ pod }) => ({ config: pod(), runtime_handler: "nope" }), /runtime handler "nope" is not known/),
  ],
  "PodSandboxConfig.metadata": [sandbox({ metadata: null }, /metadata/)],
  "PodSandboxConfig.hostname": [
    sandbox({ hostname: "a/b" }, /hostname "a\/b"/),
    sandbox({ hostname: long }, /hostname .*longer/),
  ],
  "PodSandboxConfig.log_directory": [
    sandbox({ log_directory: "logs" }, /log_directory "logs" is not an absolute path/),
    sandbox({ log_directory: "/a/../b" }, /log_directory .*"\.\."/),
  ],
  "PodSandboxConfig.dns_config": message,
  "PodSandboxConfig.port_mappings": message,
  "PodSandboxConfig.labels": label,
  "PodSandboxConfig.annotations": label,
  "PodSandboxConfig.linux": message,
  "PodSandboxConfig.windows": windows,
  "PodSandboxMetadata.name": [
    sandbox({ metadata: { name: "", uid: "u", namespace: "n" } }, /name is missing/),
    sandbox({ metadata: { name: long, uid: "u", namespace: "n" } }, /name .*longer/),
    sandbox({ metadata: { name: "../../x", uid: "u", namespace: "n" } }, /name .*must not be a path/),
  ],
  "PodSandboxMetadata.uid": [
    sandbox({ metadata: { name: "p", uid: "", namespace: "n" } }, /uid is missing/),
    sandbox({ metadata: { name: "p", uid: "a\nb", namespace: "n" } }, /uid .*control/),
  ],
  "PodSandboxMetadata.namespace": [
    sandbox({ metadata: { name: "p", uid: "u", namespace: "" } }, /namespace is missing/),
    sandbox({ metadata: { name: "p", uid: "u", namespace: "a/b" } }, /namespace .*must not be a path/),
  ],
  "PodSandboxMetadata.attempt": count,
  "DNSConfig.servers": [sandbox({ dns_config: { servers: ["1.1.1.1\nsearch evil"] } }, /dns_config server.* is not one word/)],
  "DNSConfig.searches": [sandbox({ dns_config: { searches: ["a b"] } }, /dns_config search.*"a b" is not one word/)],
  "DNSConfig.options": [sandbox({ dns_config: { options: ["x\ny"] } }, /dns_config option.* is not one word/)],
  "PortMapping.protocol": [port({ protocol: 99 }, /unknown protocol 99/)],
  "PortMapping.container_port": [
    port({ container_port: 0 }, /container_port 0 is outside of 1 to 65535/),
    port({ container_port: 65_536 }, /container_port 65536 is outside/),
  ],
  "PortMapping.host_port": [
    port({ host_port: -1 }, /host_port -1 is outside of 0 to 65535/),
    port({ host_port: 70_000 }, /host_port 70000 is outside/),
    sandbox({ port_mappings: [{ container_port: 80, host_port: 70_000 }] }, /host_port 70000 is outside/),
  ],
  "PortMapping.host_ip": [
    port({ host_ip: "example.test" }, /host_ip "example.test" is not an address/),
    port({ host_ip: "1.2.3" }, /host_ip "1.2.3" is not an address/),
  ],
  "LinuxPodSandboxConfig.cgroup_parent": [
    sandboxLinux({ cgroup_parent: "/kubepods.slice" }, /\.slice.*systemd|systemd.*slice/s),
    sandboxLinux({ cgroup_parent: "/a/../../b" }, /cgroup_parent/),
    sandboxLinux({ cgroup_parent: "/" }, /cgroup_parent/),
    sandboxLinux({ cgroup_parent: "/a\nb" }, /cgroup_parent .*control/),
  ],
  "LinuxPodSandboxConfig.security_context": message,
  "LinuxPodSandboxConfig.sysctls": [
    sandboxLinux({ sysctls: { "kernel.panic": "1" } }, /sysctl "kernel\.panic" is not allowed/),
    sandboxLinux({ sysctls: { "kernel.shmmax": "1\nkernel.core_pattern=x" } }, /value .* of sysctl "kernel\.shmmax"/),
    sandboxLinux({ sysctls: { "../../etc/passwd": "1" } }, /sysctl/),
  ],
  "LinuxPodSandboxConfig.overhead": podLimits("overhead"),
  "LinuxPodSandboxConfig.resources": podLimits("resources"),
  "LinuxSandboxSecurityContext.namespace_options": message,
  "LinuxSandboxSecurityContext.selinux_options": [podSecurity({ selinux_options: { level: "top" } }, /SELinux level "top"/)],
  "LinuxSandboxSecurityContext.run_as_user": [podSecurity({ run_as_user: { value: "-1" } }, /run_as_user -1 is outside/)],
  "LinuxSandboxSecurityContext.run_as_group": [
    podSecurity({ run_as_group: { value: "5" } }, /run_as_group of the sandbox is set without run_as_user/),
    podSecurity({ run_as_user: { value: "1" }, run_as_group: { value: "-5" } }, /run_as_group -5 is outside/),
  ],
  "LinuxSandboxSecurityContext.readonly_rootfs": flag,
  "LinuxSandboxSecurityContext.supplemental_groups": [
    podSecurity({ supplemental_groups: ["-7"] }, /supplemental group -7 is outside/),
  ],
  "LinuxSandboxSecurityContext.supplemental_groups_policy": [
    podSecurity({ supplemental_groups_policy: 99 }, /unknown supplemental_groups_policy 99/),
  ],
  "LinuxSandboxSecurityContext.privileged": flag,
  "LinuxSandboxSecurityContext.seccomp": [
    podSecurity({ seccomp: { profile_type: 99 } }, /unknown seccomp profile type 99/),
    podSecurity({ seccomp: { profile_type: "Localhost", localhost_ref: "x.json" } }, /"x\.json" is not an absolute path/),
  ],
  "LinuxSandboxSecurityContext.apparmor": [
    podSecurity({ apparmor: { profile_type: "Localhost", localhost_ref: "" } }, /apparmor profile .* needs a localhost_ref/),
  ],
  "LinuxSandboxSecurityContext.seccomp_profile_path": [
    podSecurity({ seccomp: null, seccomp_profile_path: "nonsense" }, /unknown seccomp_profile_path "nonsense"/),
  ],
  "NamespaceOption.network": [
    podSecurity({ namespace_options: { network: "TARGET" } }, /network namespace mode TARGET is not supported/),
    podSecurity({ namespace_options: { network: 99 } }, /network namespace mode 99/),
    security({ namespace_options: { network: 99 } }, /network namespace mode 99/),
  ],
  "NamespaceOption.pid": [
    podSecurity({ namespace_options: { network: "NODE", pid: "TARGET" } }, /pid namespace mode TARGET/),
    podSecurity({ namespace_options: { network: "NODE", pid: 99 } }, /unknown pid namespace mode 99/),
    security({ namespace_options: { network: "NODE", pid: 99 } }, /unknown pid namespace mode "?99/),
  ],
  "NamespaceOption.ipc": [
    podSecurity({ namespace_options: { network: "NODE", ipc: "CONTAINER" } }, /ipc namespace mode CONTAINER is not supported/i),
    security({ namespace_options: { network: "NODE", ipc: "NODE" } }, /IPC namespace/),
  ],
  "NamespaceOption.target_id": [
    security({ namespace_options: { network: "NODE", pid: "TARGET", target_id: "" } }, /needs a target_id/),
    security({ namespace_options: { network: "NODE", pid: "TARGET", target_id: nobody } }, /e{13}/),
  ],
  "NamespaceOption.userns_options": [
    security({ namespace_options: { network: "NODE", userns_options: { mode: "POD" } } }, /user ?n/i),
  ],
  "UserNamespace.mode": [
    userNamespace({ mode: "TARGET" }, /user namespace mode TARGET is not supported/),
    userNamespace({ mode: 99 }, /user namespace mode 99 is not supported/),
    userNamespace({ mode: "NODE", uids: [{ host_id: 1, length: 1 }] }, /NODE must not have mappings/),
  ],
  "UserNamespace.uids": [userNamespace({ mode: "POD", uids: [], gids: [] }, /exactly one uid mapping, 0 are given/)],
  "UserNamespace.gids": [
    userNamespace(
      { mode: "POD", uids: [{ host_id: 100_000, length: 65_536 }], gids: [] },
      /exactly one gid mapping, 0 are given|differ/,
    ),
  ],
  "IDMapping.host_id": [mapping({ host_id: 4_294_967_290 }, /goes beyond the highest id/)],
  "IDMapping.container_id": [mapping({ container_id: 5 }, /does not contain the container's root/)],
  "IDMapping.length": [mapping({ length: 0 }, /length 0/)],
  "SELinuxOption.user": [security({ selinux_options: { user: "a:b" } }, /SELinux/)],
  "SELinuxOption.role": [security({ selinux_options: { role: "a b" } }, /SELinux/)],
  "SELinuxOption.type": [security({ selinux_options: { type: "\n" } }, /SELinux/)],
  "SELinuxOption.level": [security({ selinux_options: { level: "top" } }, /SELinux/)],
  "Int64Value.value": [
    security({ run_as_user: { value: "4294967296" } }, /4294967296 is outside/),
    security({ run_as_user: { value: "-9223372036854775808" } }, /-9223372036854775808 is outside/),
  ],
  "SecurityProfile.profile_type": [
    security({ seccomp: { profile_type: 99 } }, /unknown seccomp profile type 99/),
    security({ apparmor: { profile_type: 99 } }, /unknown apparmor profile type 99/i),
  ],
  "SecurityProfile.localhost_ref": [
    security(
      { seccomp: { profile_type: "Localhost", localhost_ref: "" } },
      /seccomp profile of type Localhost needs a localhost_ref/,
    ),
    security({ seccomp: { profile_type: "Localhost", localhost_ref: "/no/x.json" } }, /\/no\/x\.json.*does not exist/),
    security({ seccomp: { profile_type: "Localhost", localhost_ref: "relative.json" } }, /relative\.json.*absolute/),
    security({ seccomp: { profile_type: "Unconfined", localhost_ref: "/x" } }, /is not of type Localhost/),
  ],
  "LinuxContainerResources.cpu_period": limits({ cpu_period: "10" }, /cpu_period 10 is outside/),
  "LinuxContainerResources.cpu_quota": limits({ cpu_quota: "-2" }, /cpu_quota -2 is neither/),
  "LinuxContainerResources.cpu_shares": limits({ cpu_shares: "-1" }, /cpu_shares -1 is negative/),
  "LinuxContainerResources.memory_limit_in_bytes": [
    ...limits({ memory_limit_in_bytes: "-5" }, /memory_limit_in_bytes -5 is negative/),
  ],
  "LinuxContainerResources.oom_score_adj": [
    container({ linux: { resources: { oom_score_adj: "1001" } } }, /oom_score_adj 1001 is outside of -1000 to 1000/),
  ],
  "LinuxContainerResources.cpuset_cpus": [
    ...limits({ cpuset_cpus: "0-" }, /cpuset_cpus "0-" is not a list/),
    ...limits({ cpuset_cpus: "all" }, /cpuset_cpus "all" is not a list/),
  ],
  "LinuxContainerResources.cpuset_mems": limits({ cpuset_mems: "1,x" }, /cpuset_mems "1,x" is not a list/),
  "LinuxContainerResources.hugepage_limits": message,
  "LinuxContainerResources.unified": limits({ unified: { "../x": "1" } }, /unified resource/),
  "LinuxContainerResources.memory_swap_limit_in_bytes": [
    ...limits(
      { memory_limit_in_bytes: 1 << 26, memory_swap_limit_in_bytes: 1 << 25 },
      /memory_swap_limit_in_bytes 33554432 .* is below/,
    ),
    container({ linux: { resources: { memory_swap_limit_in_bytes: 1 << 25 } } }, /without memory_limit_in_bytes/),
  ],
  "HugepageLimit.page_size": limits({ hugepage_limits: [{ page_size: "big", limit: 0 }] }, /page_size "big" is not like 2MB/),
  "HugepageLimit.limit": "every unsigned number of bytes is a limit",
  "WindowsPodSandboxConfig.security_context": windows,
  "WindowsSandboxSecurityContext.run_as_username": windows,
  "WindowsSandboxSecurityContext.credential_spec": windows,
  "WindowsSandboxSecurityContext.host_process": windows,
  "WindowsSandboxSecurityContext.namespace_options": windows,
  "WindowsNamespaceOption.network": windows,
  "StopPodSandboxRequest.pod_sandbox_id": idempotent("StopPodSandbox", "pod_sandbox_id"),
  "RemovePodSandboxRequest.pod_sandbox_id": idempotent("RemovePodSandbox", "pod_sandbox_id"),
  "PodSandboxStatusRequest.pod_sandbox_id": id("PodSandboxStatus", "pod_sandbox_id"),
  "PodSandboxStatusRequest.verbose": flag,
  "ListPodSandboxRequest.filter": filter,
  "PodSandboxFilter.id": filter,
  "PodSandboxFilter.state": filter,
  "PodSandboxFilter.label_selector": filter,
  "PodSandboxStateValue.state": filter,
  "StreamPodSandboxesRequest.filter": filter,
  "CreateContainerRequest.pod_sandbox_id": [
    wrong(
      "CreateContainer",
      ({ pod, container }) => ({ pod_sandbox_id: "", config: container(), sandbox_config: pod() }),
      /sandbox/,
    ),
    wrong(
      "CreateContainer",
      ({ pod, container }) => ({ pod_sandbox_id: nobody, config: container(), sandbox_config: pod() }),
      /e{13}/,
      NOT_FOUND,
    ),
  ],
  "CreateContainerRequest.config": [
    wrong("CreateContainer", ({ podId, pod }) => ({ pod_sandbox_id: podId, config: null, sandbox_config: pod() }), /config/),
  ],
  "CreateContainerRequest.sandbox_config": [
    wrong("CreateContainer", ({ podId, container }) => ({ pod_sandbox_id: podId, config: container() }), /sandbox_?\s?config/),
  ],
  "ContainerConfig.metadata": [container({ metadata: null }, /metadata/)],
  "ContainerConfig.image": [container({ image: null }, /image/)],
  "ContainerConfig.command": [container({ command: ["/bin/sh\0"] }, /argument 0 of the command contains a NUL/)],
  "ContainerConfig.args": [container({ args: ["a", "b\0c"] }, /argument 3 of the command contains a NUL|argument \d/)],
  "ContainerConfig.working_dir": [container({ working_dir: "here" }, /"here" is not an absolute path/)],
  "ContainerConfig.envs": message,
  "ContainerConfig.mounts": message,
  "ContainerConfig.devices": message,
  "ContainerConfig.labels": label,
  "ContainerConfig.annotations": label,
  "ContainerConfig.log_path": [
    container({ log_path: "../../etc/x" }, /log_path "\.\.\/\.\.\/etc\/x"/),
    container({ log_path: "a\nb" }, /log_path .*control/),
    container({ log_path: "a/" }, /log_path "a\/" does not name a file/),
  ],
  "ContainerConfig.stdin": flag,
  "ContainerConfig.stdin_once": flag,
  "ContainerConfig.tty": flag,
  "ContainerConfig.linux": message,
  "ContainerConfig.windows": windows,
  "ContainerConfig.CDI_devices": message,
  "ContainerConfig.stop_signal": [container({ stop_signal: 999 }, /unknown stop signal 999/)],
  "ContainerMetadata.name": [
    container({ metadata: { name: "" } }, /name is missing/),
    container({ metadata: { name: long } }, /name .*longer/),
    container({ metadata: { name: "a/b" } }, /name "a\/b" must not be a path/),
  ],
  "ContainerMetadata.attempt": count,
  "ImageSpec.image": [
    container({ image: { image: "" } }, /image/),
    container({ image: { image: "example.test/none:1" } }, /example\.test\/none:1/, NOT_FOUND),
    ...image({ image: "" }, /names no image/),
    ...image({ image: "Not A Reference" }, /Not A Reference/),
  ],
  "ImageSpec.annotations": label,
  "ImageSpec.user_specified_image": "what the user wrote is reported as it is",
  "ImageSpec.runtime_handler": "images are the same for every handler",
  "ImageSpec.image_ref": "a reply's field: in requests it has no meaning",
  "KeyValue.key": [
    container({ envs: [{ key: "A=B", value: Buffer.from("c") }] }, /"A=B"/),
    container({ envs: [{ key: "", value: Buffer.from("c") }] }, /environment variable name "" is empty/),
  ],
  "KeyValue.value": [
    container({ envs: [{ key: "A", value: Buffer.from("b\0c") }] }, /value of environment variable "A" contains a NUL/),
  ],
  "Mount.container_path": [
    mount({ container_path: "data" }, /"data" is not an absolute path/),
    mount({ container_path: "/../.." }, /"\.\."/),
    mount({ container_path: "/" }, /must not be the root/),
    mount({ container_path: "/proc/sys/kernel/core_pattern" }, /\/proc/),
  ],
  "Mount.host_path": [
    mount({ host_path: "tmp" }, /"tmp" is not an absolute path/),
    mount({ host_path: "" }, /host_path/),
    mount({ host_path: "/etc/passwd/x" }, /host_path "\/etc\/passwd\/x" of the mount at \/data/),
  ],
  "Mount.readonly": flag,
  "Mount.selinux_relabel": "without SELinux there is nothing to relabel; with it, a test of its own",
  "Mount.propagation": [mount({ propagation: 99 }, /unknown mount propagation 99/)],
  "Mount.uidMappings": [mount({ uidMappings: [{ host_id: 1, length: 1 }] }, /has id mappings but the pod has no user namespace/)],
  "Mount.gidMappings": [mount({ gidMappings: [{ host_id: 1, length: 1 }] }, /has id mappings but the pod has no user namespace/)],
  "Mount.recursive_read_only": [
    mount({ recursive_read_only: true }, /recursive_read_only .* needs readonly/),
    mount(
      { recursive_read_only: true, readonly: true, propagation: "PROPAGATION_BIDIRECTIONAL" },
      /needs propagation PRIVATE|privileged/,
    ),
  ],
  "Mount.image": [
    mount(
      { host_path: "", readonly: true, image: { image: "example.test/none:1" } },
      /image "example\.test\/none:1" of the mount at \/data is not on this node/,
      NOT_FOUND,
    ),
  ],
  "Mount.image_sub_path": [mount({ image_sub_path: "x" }, /has an image_sub_path but no image/)],
  "Mount.mount_options": [mount({ mount_options: ["fly"] }, /mount option "fly" of the mount at \/data is not supported/)],
  "Device.container_path": [
    device({ container_path: "x" }, /"x" is not an absolute path/),
    device({ container_path: "/" }, /must not be \//),
  ],
  "Device.host_path": [
    device({ host_path: "/dev/nope" }, /device "\/dev\/nope" does not exist/),
    device({ host_path: "/etc/passwd" }, /"\/etc\/passwd" is not a device/),
  ],
  "Device.permissions": [device({ permissions: "rz" }, /permissions "rz" of device/)],
  "LinuxContainerConfig.resources": message,
  "LinuxContainerConfig.security_context": message,
  "LinuxContainerSecurityContext.capabilities": message,
  "LinuxContainerSecurityContext.privileged": [security({ privileged: true }, /needs a privileged sandbox/)],
  "LinuxContainerSecurityContext.namespace_options": message,
  "LinuxContainerSecurityContext.selinux_options": message,
  "LinuxContainerSecurityContext.run_as_user": [security({ run_as_user: { value: "-1" } }, /run_as_user -1 is outside/)],
  "LinuxContainerSecurityContext.run_as_group": [
    security({ run_as_group: { value: "5" } }, /run_as_group is set without run_as_user/),
    security({ run_as_user: { value: "1" }, run_as_group: { value: "-5" } }, /run_as_group -5 is outside/),
  ],
  "LinuxContainerSecurityContext.run_as_username": [
    security({ run_as_username: "stranger" }, /unable to find user "stranger"/),
    security({ run_as_username: "a:b" }, /"a:b" is not a valid name|unable to find/),
    security({ run_as_username: "root", run_as_user: { value: "0" } }, /must not both be set/),
  ],
  "LinuxContainerSecurityContext.readonly_rootfs": flag,
  "LinuxContainerSecurityContext.supplemental_groups": [security({ supplemental_groups: ["-7"] }, /-7 is outside/)],
  "LinuxContainerSecurityContext.supplemental_groups_policy": [
    security({ supplemental_groups_policy: 99 }, /unknown supplemental_groups_policy 99/),
  ],
  "LinuxContainerSecurityContext.no_new_privs": flag,
  "LinuxContainerSecurityContext.masked_paths": [
    security({ masked_paths: ["proc/kcore"] }, /"proc\/kcore" is not an absolute path/),
  ],
  "LinuxContainerSecurityContext.readonly_paths": [security({ readonly_paths: ["/a/../b"] }, /"\/a\/\.\.\/b" contains "\.\."/)],
  "LinuxContainerSecurityContext.seccomp": message,
  "LinuxContainerSecurityContext.apparmor": message,
  "LinuxContainerSecurityContext.apparmor_profile": [
    security({ apparmor_profile: "nonsense" }, /unknown apparmor_profile "nonsense"/),
  ],
  "LinuxContainerSecurityContext.seccomp_profile_path": [
    security({ seccomp: null, seccomp_profile_path: "nonsense" }, /unknown seccomp_profile_path "nonsense"/),
  ],
  "Capability.add_capabilities": [security({ capabilities: { add_capabilities: ["FLY"] } }, /unknown capability "FLY"/)],
  "Capability.drop_capabilities": [security({ capabilities: { drop_capabilities: ["FLY"] } }, /unknown capability "FLY"/)],
  "Capability.add_ambient_capabilities": [
    security({ capabilities: { add_ambient_capabilities: ["FLY"] } }, /unknown capability "FLY"/),
    security(
      { capabilities: { add_ambient_capabilities: ["SYS_ADMIN"] } },
      /ambient capability CAP_SYS_ADMIN is not one of the container's/,
    ),
  ],
  "WindowsContainerConfig.resources": windows,
  "WindowsContainerConfig.security_context": windows,
  "WindowsContainerResources.cpu_shares": windows,
  "WindowsContainerResources.cpu_count": windows,
  "WindowsContainerResources.cpu_maximum": windows,
  "WindowsContainerResources.memory_limit_in_bytes": windows,
  "WindowsContainerResources.rootfs_size_in_bytes": windows,
  "WindowsContainerResources.affinity_cpus": windows,
  "WindowsCpuGroupAffinity.cpu_mask": windows,
  "WindowsCpuGroupAffinity.cpu_group": windows,
  "WindowsContainerSecurityContext.run_as_username": windows,
  "WindowsContainerSecurityContext.credential_spec": windows,
  "WindowsContainerSecurityContext.host_process": windows,
  "CDIDevice.name": [
    container({ CDI_devices: [{ name: "nonsense" }] }, /"?nonsense"?/),
    container({ CDI_devices: [{ name: "vendor.test/class=none" }] }, /vendor\.test\/class=none/, FAILED_PRECONDITION),
  ],
  "StartContainerRequest.container_id": id("StartContainer", "container_id"),
  "StopContainerRequest.container_id": idempotent("StopContainer", "container_id"),
  "StopContainerRequest.timeout": [
    wrong("StopContainer", ({ containerId }) => ({ container_id: containerId, timeout: "-1" }), /timeout -1/),
  ],
  "RemoveContainerRequest.container_id": idempotent("RemoveContainer", "container_id"),
  "ListContainersRequest.filter": filter,
  "ContainerFilter.id": filter,
  "ContainerFilter.state": filter,
  "ContainerFilter.pod_sandbox_id": filter,
  "ContainerFilter.label_selector": filter,
  "ContainerStateValue.state": filter,
  "StreamContainersRequest.filter": filter,
  "ContainerStatusRequest.container_id": id("ContainerStatus", "container_id"),
  "ContainerStatusRequest.verbose": flag,
  "UpdateContainerResourcesRequest.container_id": id("UpdateContainerResources", "container_id", { linux: { cpu_shares: 2 } }),
  "UpdateContainerResourcesRequest.linux": message,
  "UpdateContainerResourcesRequest.windows": windows,
  "UpdateContainerResourcesRequest.annotations": label,
  "ReopenContainerLogRequest.container_id": id("ReopenContainerLog", "container_id"),
  "ExecSyncRequest.container_id": id("ExecSync", "container_id", { cmd: ["/bin/true"] }),
  "ExecSyncRequest.cmd": [
    wrong("ExecSync", ({ containerId }) => ({ container_id: containerId, cmd: [] }), /cmd|command/),
    wrong("ExecSync", ({ containerId }) => ({ container_id: containerId, cmd: ["/bin/true", "a\0"] }), /NUL/),
  ],
  "ExecSyncRequest.timeout": [
    wrong("ExecSync", ({ containerId }) => ({ container_id: containerId, cmd: ["/bin/true"], timeout: "-1" }), /timeout -1/),
  ],
  "ExecRequest.container_id": id("Exec", "container_id", { cmd: ["/bin/true"], stdout: true }),
  "ExecRequest.cmd": [
    wrong("Exec", ({ containerId }) => ({ container_id: containerId, cmd: [], stdout: true }), /cmd|command/),
    wrong("Exec", ({ containerId }) => ({ container_id: containerId, cmd: ["a\0"], stdout: true }), /NUL/),
  ],
  "ExecRequest.tty": [
    wrong(
      "Exec",
      ({ containerId }) => ({ container_id: containerId, cmd: ["a"], tty: true, stdout: true, stderr: true }),
      /tty and stderr/,
    ),
  ],
  "ExecRequest.stdin": [
    wrong("Exec", ({ containerId }) => ({ container_id: containerId, cmd: ["a"] }), /one of stdin, stdout and stderr/),
  ],
  "ExecRequest.stdout": [
    wrong("Exec", ({ containerId }) => ({ container_id: containerId, cmd: ["a"] }), /one of stdin, stdout and stderr/),
  ],
  "ExecRequest.stderr": [
    wrong("Exec", ({ containerId }) => ({ container_id: containerId, cmd: ["a"], tty: true, stderr: true }), /tty and stderr/),
  ],
  "AttachRequest.container_id": id("Attach", "container_id", { stdout: true }),
  "AttachRequest.stdin": [
    wrong("Attach", ({ containerId }) => ({ container_id: containerId }), /one of stdin, stdout and stderr/),
  ],
  "AttachRequest.tty": [
    wrong(
      "Attach",
      ({ containerId }) => ({ container_id: containerId, tty: true, stdout: true, stderr: true }),
      /tty and stderr/,
    ),
  ],
  "AttachRequest.stdout": [
    wrong("Attach", ({ containerId }) => ({ container_id: containerId }), /one of stdin, stdout and stderr/),
  ],
  "AttachRequest.stderr": [
    wrong("Attach", ({ containerId }) => ({ container_id: containerId, tty: true, stderr: true }), /tty and stderr/),
  ],
  "PortForwardRequest.pod_sandbox_id": id("PortForward", "pod_sandbox_id", { port: [80] }),
  "PortForwardRequest.port": [
    wrong("PortForward", ({ podId }) => ({ pod_sandbox_id: podId, port: [0] }), /0 is not a port/),
    wrong("PortForward", ({ podId }) => ({ pod_sandbox_id: podId, port: [80, 65_536] }), /65536 is not a port/),
    wrong("PortForward", ({ podId }) => ({ pod_sandbox_id: podId, port: [-1] }), /-1 is not a port/),
  ],
  "ContainerStatsRequest.container_id": id("ContainerStats", "container_id"),
  "ListContainerStatsRequest.filter": filter,
  "ContainerStatsFilter.id": filter,
  "ContainerStatsFilter.pod_sandbox_id": filter,
  "ContainerStatsFilter.label_selector": filter,
  "StreamContainerStatsRequest.filter": filter,
  "PodSandboxStatsRequest.pod_sandbox_id": id("PodSandboxStats", "pod_sandbox_id"),
  "ListPodSandboxStatsRequest.filter": filter,
  "PodSandboxStatsFilter.id": filter,
  "PodSandboxStatsFilter.label_selector": filter,
  "StreamPodSandboxStatsRequest.filter": filter,
  "UpdateRuntimeConfigRequest.runtime_config": message,
  "RuntimeConfig.network_config": message,
  "NetworkConfig.pod_cidr": [
    wrong("UpdateRuntimeConfig", () => ({ runtime_config: { network_config: { pod_cidr: "10.0.0.0/99" } } }), /10\.0\.0\.0\/99/),
    wrong("UpdateRuntimeConfig", () => ({ runtime_config: { network_config: { pod_cidr: "x" } } }), /"x"/),
  ],
  "StatusRequest.verbose": flag,
  "CheckpointContainerRequest.container_id": id("CheckpointContainer", "container_id", { location: "/tmp/caisson-none.tar" }),
  "CheckpointContainerRequest.location": [
    wrong("CheckpointContainer", ({ containerId }) => ({ container_id: containerId, location: "" }), /location/),
    wrong(
      "CheckpointContainer",
      ({ containerId }) => ({ container_id: containerId, location: "x.tar" }),
      /location "x\.tar" is no absolute path/,
    ),
  ],
  "CheckpointContainerRequest.timeout": [
    wrong(
      "CheckpointContainer",
      ({ containerId }) => ({ container_id: containerId, location: "/tmp/caisson-none.tar", timeout: "-1" }),
      /timeout -1/,
    ),
  ],
  "CheckpointPodRequest.pod_sandbox_id": id("CheckpointPod", "pod_sandbox_id", { output_path: "/tmp/caisson-none" }),
  "CheckpointPodRequest.output_path": [
    wrong("CheckpointPod", ({ podId }) => ({ pod_sandbox_id: podId, output_path: "" }), /output_path/),
    wrong("CheckpointPod", ({ podId }) => ({ pod_sandbox_id: podId, output_path: "x" }), /output_path "x" is no directory/),
  ],
  "CheckpointPodRequest.container_ids": [
    wrong(
      "CheckpointPod",
      ({ podId, emptyDirectory }) => ({ pod_sandbox_id: podId, output_path: emptyDirectory, container_ids: [nobody] }),
      /e{13}/,
      NOT_FOUND,
    ),
  ],
  "CheckpointPodRequest.options": [
    wrong(
      "CheckpointPod",
      ({ podId }) => ({ pod_sandbox_id: podId, output_path: "/tmp/caisson-none", options: { fly: "1" } }),
      /fly/,
    ),
  ],
  "RestorePodRequest.checkpoint_path": [
    wrong("RestorePod", ({ pod }) => ({ checkpoint_path: "", config: pod() }), /checkpoint_path/),
    wrong("RestorePod", ({ pod }) => ({ checkpoint_path: "x", config: pod() }), /checkpoint_path must be absolute/),
    wrong("RestorePod", ({ pod }) => ({ checkpoint_path: "/tmp/caisson-none", config: pod() }), /caisson-none/, NOT_FOUND),
  ],
  "RestorePodRequest.config": [wrong("RestorePod", () => ({ checkpoint_path: "/tmp/caisson-none", config: null }), /config/)],
  "RestorePodRequest.runtime_handler": "checked as RunPodSandbox's is, once the checkpoint has been read",
  "RestorePodRequest.options": [
    wrong("RestorePod", ({ pod }) => ({ checkpoint_path: "/tmp/caisson-none", config: pod(), options: { fly: "1" } }), /fly/),
  ],
  "RestorePodRequest.container_configs":
    "its own fields are what can be wrong; what does not fit the checkpoint has tests with it",
  "UpdatePodSandboxResourcesRequest.pod_sandbox_id": id("UpdatePodSandboxResources", "pod_sandbox_id"),
  "UpdatePodSandboxResourcesRequest.overhead": podUpdate("overhead"),
  "UpdatePodSandboxResourcesRequest.resources": podUpdate("resources"),
  "ListImagesRequest.filter": filter,
  "ImageFilter.image": filter,
  "StreamImagesRequest.filter": filter,
  "ImageStatusRequest.image": [wrong("ImageStatus", () => ({ image: { image: "" } }), /names no image/)],
  "ImageStatusRequest.verbose": flag,
  "PullImageRequest.image": [wrong("PullImage", () => ({ image: null }), /names no image/)],
  "PullImageRequest.auth": message,
  "PullImageRequest.sandbox_config": "only tells for whom the image is pulled",
  "AuthConfig.username": "who may pull is the registry's to say",
  "AuthConfig.password": "who may pull is the registry's to say",
  "AuthConfig.auth": [wrong("PullImage", () => ({ image: { image: "127.0.0.1:1/x:1" }, auth: { auth: "***" } }), /auth/)],
  "AuthConfig.server_address": "credentials for another server are not used",
  "AuthConfig.identity_token": "who may pull is the registry's to say",
  "AuthConfig.registry_token": "who may pull is the registry's to say",
  "RemoveImageRequest.image": [wrong("RemoveImage", () => ({ image: { image: "" } }), /names no image/)],
};

/** Verbs of the other service. */
export const imageMethods: ReadonlySet<string> = new Set(["PullImage", "ImageStatus", "RemoveImage"]);
