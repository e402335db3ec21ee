/*
 * Process 1 of a shared PID namespace. Containers of the pod see it and may trace it, so it owns nothing: an empty root, no
 * descriptors, no capabilities, a filter that allows it to sleep, and, being executed afresh, none of the shim's memory.
 */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define AUDIT_ARCH 0xc000003eu
#elif defined(__aarch64__)
#define AUDIT_ARCH 0xc00000b7u
#else
#error "unknown architecture"
#endif

/* struct sock_filter: code, jump if true, jump if false, operand. */
struct instruction {
	uint16_t code;
	uint8_t yes, no;
	uint32_t k;
};
#define LOAD(offset) { 0x20, 0, 0, offset }
#define EQUAL(value, yes, no) { 0x15, yes, no, value }
#define RETURN(value) { 0x06, 0, 0, value }
#define ALLOW 0x7fff0000u
#define KILL 0x80000000u

static int empty_root(void)
{
	if (syscall(SYS_unshare, (unsigned long)CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		return -errno;
	autoclose int fs = k_fsopen("tmpfs");
	if (fs < 0)
		return fs;
	int error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "nr_inodes", "2", 0);
	if (error == 0)
		error = k_fsconfig(fs, K_FSCONFIG_SET_STRING, "nr_blocks", "1", 0);
	if (error == 0)
		error = k_fsconfig(fs, K_FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	autoclose int root = error < 0 ? error : k_fsmount(fs, K_MOUNT_ATTR_RDONLY | K_MOUNT_ATTR_NOSUID | K_MOUNT_ATTR_NODEV | K_MOUNT_ATTR_NOEXEC);
	if (root < 0)
		return root;
	autoclose int old = (int)k_result(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
	if (old < 0)
		return old;
	error = k_move_mount(root, "", AT_FDCWD, "/", K_MOVE_MOUNT_F_EMPTY_PATH);
	if (error < 0)
		return error;
	if (fchdir(root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || fchdir(old) < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return -errno;
	return 0;
}

static int drop_capabilities(void)
{
	uint32_t header[2] = { 0x20080522u, 0 };
	uint32_t none[6] = { 0 };
	for (int cap = 0; cap <= K_CAP_LAST && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, header, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

int op_reaper(struct run *run, const value *v)
{
	(void)v;
	static char *const argv[] = { REAPER_NAME, NULL };
	static char *const envp[] = { NULL };
	int image = run->env->image;
	if (image < 0)
		return say(run, -EBADF, "the shim has no image of itself", NULL, NULL);
	int error = empty_root();
	if (error < 0)
		return say(run, error, "empty root", NULL, NULL);
	/* Out of the way of 0 to 2, which go too; report stays for the case that execveat fails. */
	image = (int)k_result(fcntl(image, F_DUPFD_CLOEXEC, 3));
	if (image < 0)
		return image;
	memset(run->env->slots, 0xff, sizeof run->env->slots);
	memset(run->env->pins, 0xff, sizeof run->env->pins);
	run->env->image = image;
	close_foreign_descriptors(run);
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	fcntl(run->env->release, F_SETFD, FD_CLOEXEC);
	fcntl(run->env->report, F_SETFD, FD_CLOEXEC);
	error = drop_capabilities();
	if (error < 0)
		return say(run, error, "capabilities", NULL, NULL);
	/* Without the shim nobody could reap or log this pod: it ends at once, and with its process 1 all of it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	syscall(SYS_execveat, image, "", argv, envp, K_AT_EMPTY_PATH);
	return say(run, -errno, "image of the shim", NULL, NULL);
}

int reaper_main(void)
{
	static const struct instruction filter[] = {
		LOAD(4), EQUAL(AUDIT_ARCH, 1, 0), RETURN(KILL),
		LOAD(0),
		EQUAL(SYS_rt_sigsuspend, 2, 0), EQUAL(SYS_restart_syscall, 1, 0), RETURN(KILL),
		RETURN(ALLOW),
	};
	struct {
		uint16_t count;
		const void *program;
	} program = { sizeof filter / sizeof *filter, filter };
	uint64_t all = ~0ull;
	k_signal_mask(all);
	/* The kernel then reaps orphans by itself. */
	k_signal(SIGCHLD, 1);
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prctl(PR_SET_NAME, REAPER_NAME, 0, 0, 0);
	if (prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &program, 0, 0) < 0)
		return 1;
	for (;;)
		syscall(SYS_rt_sigsuspend, &all, sizeof all);
}
