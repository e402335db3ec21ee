/*
 * Inside the op runner. One struct run per child; ops are functions of it and of their decoded fields, return 0 or -errno and
 * may say more than their first string field by `say`. Everything here runs after fork: async-signal-safe calls only.
 */
#ifndef CAISSON_RUN_H
#define CAISSON_RUN_H

#include <limits.h>

#include "kernel.h"
#include "plan.h"
#include "wire.h"

struct run {
	const struct plan *plan;
	struct plan_env *env;
	struct plan_cursor cursor; /* behind the op that runs */
	uint32_t index;
	uint32_t exported;
	int root;           /* O_PATH of the root that paths in the root refer to; -1: not set */
	int proc;           /* private procfs, the shim's or one of our own; -1: not needed yet */
	int own_fds;        /* directory of this process's descriptors in it; -1: not open yet */
	int null_device;    /* O_PATH of a verified null device of the mount tree at hand; -1: not open yet */
	int listener;       /* seccomp notification descriptor, kept for `send-listener` until execve; -1: none */
	int mask_template;  /* the empty tmpfs that masks directories; -1: none yet */
	int rootless;       /* an ordinary user on the host */
	int death_signal;   /* lost at fork and at a change of credentials, so it is kept here */
	unsigned kept;      /* how many descriptors from 3 on are the executed process's */
	uint8_t in_container; /* "/" is the container's: pivoted, or its mount namespace joined */
	uint8_t tree_is_slave; /* unmounting here cannot reach the host */
	uint8_t pid_for_children; /* a pid namespace is joined or made which this process is not in */
	uint8_t forked;
	uint8_t terminal_waits; /* 0 is a terminal that becomes the controlling one after the fork */
	char home[256];     /* for `exec`, from the container's passwd; empty: not looked up */
	char detail[sizeof ((struct plan_report *)0)->detail];
};

typedef struct wire_value value;
typedef int op_function(struct run *run, const value *v);

/* Replaces the detail of a failure by up to three strings, one after another. Returns `error`. */
int say(struct run *run, int error, const char *a, const char *b, const char *c);

/* Descriptor of a slot or pin, or -EBADF. */
int slot_fd(const struct run *run, uint32_t slot);
/* Puts a descriptor into a slot; a former one is closed. */
void slot_set(struct run *run, uint32_t slot, int fd);
void slot_close(struct run *run, uint32_t slot);
/* Keeps 0, 1, 2, those of `keep`, report and release. */
void close_all_descriptors(struct run *run);
/* Keeps the slots, pins and the image as well. */
void close_foreign_descriptors(struct run *run);

/* Sends a report, with `fd` attached unless it is -1. The child ends when nobody listens. */
void report_send(struct run *run, enum plan_report_type type, uint32_t number, int32_t pid, int fd);
/* Waits for one byte on `release`; the child ends at end of file. */
void wait_for_release(struct run *run);
int restore_death_signal(struct run *run);

/* ---- procfs.c: security rules in section 2.2 of the reference */
/* The private procfs handle, the given one or opened at first use: -errno or its descriptor, which stays with the run. */
int proc_handle(struct run *run);
/* Opens a path below a procfs handle; never crosses a mount, follows no link but thread-self at the start. */
int proc_open(int proc, const char *path, int flags);
/* Opens /proc/thread-self/PATH through the private handle. */
int proc_open_self(struct run *run, const char *path, int flags);
/* Directory of the descriptors of this process, O_PATH: -errno or its descriptor, which stays with the run until the next fork. */
int proc_own_fds(struct run *run);
/* Opens a magic link (ns/X) of this process. */
int proc_open_link(struct run *run, const char *directory, const char *name, int flags);
/* Path of a descriptor as the kernel shows it, NUL-terminated; returns its length or -errno. */
int proc_fd_path(struct run *run, int fd, char *out, size_t room);
/* Opens an O_PATH descriptor for use. */
int proc_reopen(struct run *run, int fd, int flags);
/* A procfs with /proc/sys, for one write; the caller closes it at once. */
int proc_unmasked(void);
/* Writes all of text in one write. */
int write_once(int fd, const char *text);
/* Decimal digits of n; out has 12 bytes at least. Returns out. */
char *decimal(char *out, uint32_t n);

/* ---- root-path.c: security rules in section 2.1 of the reference */
/* The root of paths in the root: the one that was set, or "/" where that is the container's. */
int root_fd(struct run *run);
#define ROOT_NO_SYMLINKS 1 /* no component may be a symlink */
#define ROOT_NO_FOLLOW 2   /* a symlink at the end is opened itself */
/* O_PATH descriptor of an existing path in the root. */
int root_open(struct run *run, const char *path, unsigned flags);
#define ROOT_MKDIR 4 /* the last component too becomes a directory, else a file */
/* The same, making what is missing: parents 0755, a last directory of `mode`, a file 0644. *made: the last one was missing. */
int root_create(struct run *run, const char *path, unsigned flags, mode_t mode, int *made);
/* Directory that holds the last component, made if missing, whose links are followed; the last component goes to `name` and is not looked at. */
int root_parent(struct run *run, const char *path, char name[NAME_MAX + 1]);
/* Opens the path again: -ESTALE unless it is on the same mount and the same file as `fd`. */
int root_verify(struct run *run, const char *path, unsigned flags, int fd);
/* "/" + path below the root, of an open descriptor; -EXDEV if it is not below. */
int root_relative(struct run *run, int fd, char *out, size_t room);
/* 1 if both name one file of one filesystem. */
int same_file(int a, int b);
/* Opens a character device in the root after checking its number, without touching any other device. */
int is_device(int fd, mode_t type, unsigned major_number, unsigned minor_number);
/* A verified null device, opened for reading and writing. */
int open_null(struct run *run);

/* chmod and chown of an O_PATH descriptor. */
int set_owner_mode(struct run *run, int fd, uint32_t uid, uint32_t gid, mode_t mode);

/* ---- ops-move-root.c */
/* The root takes the place of "/", without pivot_root. */
int move_root(struct run *run);

/* ---- ops-fsmount.c */
/* Says `what` and the kernel's own words about the last error of a filesystem context. Returns `error`. */
int fs_say_log(struct run *run, int error, int fs, const char *what);
/* Sets "key=value" or "key". */
int fs_set_option(int fs, const char *option, uint32_t size);

/* ---- one function per op */
op_function op_clean_start, op_join_ns, op_join_process, op_new_ns, op_new_userns, op_fork, op_barrier, op_cgroup_attach, op_export, op_pin,
	op_open_own_ns, op_bind_own_ns, op_parent_death_signal, op_reaper, op_mapped_userns;
op_function op_open_tree, op_fsmount, op_overlay, op_mount_attr, op_root_propagation, op_attach_root, op_use_root, op_attach, op_pivot,
	op_unmount, op_mkdir, op_mknod, op_symlink, op_mask, op_readonly, op_remount_attr, op_open_in_root, op_open_host, op_copy_tree,
	op_attach_host, op_chown_slot;
op_function op_hostname, op_domainname, op_sysctl, op_loopback_up, op_rlimit, op_oom_score_adj, op_no_new_privs, op_seccomp, op_user,
	op_bounding_caps, op_caps, op_umask, op_cwd, op_keyring, op_stdio, op_console, op_park, op_exec,
	op_connect, op_exec_host, op_hold_frozen, op_hold_network, op_expose, op_open_sysv_list;
op_function op_apparmor, op_selinux, op_scheduler, op_io_priority, op_cpu_affinity, op_personality, op_memory_policy, op_hook, op_keep,
	op_connect_unix, op_send_listener, op_net_device, op_move_root, op_relabel;

/* 1 if an op behind this one works on slots, pins, the root or the host's files. */
int rest_needs_descriptors(const struct run *run);
/* Looks up HOME for `exec`, once, while the container's passwd can still be opened. */
void find_home(struct run *run);
/* 1 if a fork is still to come: session and controlling terminal are then the new process's. */
int plan_forks_later(const struct run *run);
/* After entering a user namespace: its root, no groups of the host. */
int become_namespace_root(struct run *run);
int set_groups(struct run *run, const uint32_t *groups, uint32_t count);

#endif
