/* The last steps: working directory, HOME, execve. */
#define _GNU_SOURCE
#include "run.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define PASSWD_MAX_BYTES (1 << 20)

int op_cwd(struct run *run, const value *v)
{
	char here[PATH_MAX];
	const char *path = v[OP_CWD_PATH].str;
	if (v[OP_CWD_CREATE].u32) {
		autoclose int fd = root_create(run, path, ROOT_MKDIR, 0755, NULL);
		if (fd < 0)
			return fd;
	}
	find_home(run);
	/* A path like /proc/self/fd/7 may not lead to what the runtime has open (CVE-2024-21626). */
	if (!rest_needs_descriptors(run))
		close_all_descriptors(run);
	if (chdir(path) < 0)
		return -errno;
	long length = k_result(syscall(SYS_getcwd, here, sizeof here));
	if (length < 0)
		return (int)length;
	return here[0] == '/' ? 0 : say(run, -EXDEV, path, " is outside of the container", NULL);
}

static const char *variable(const value *env, const char *name, size_t length)
{
	const char *entry;
	struct wire_items items = wire_items(env);
	while ((entry = wire_next_str(&items, NULL)))
		if (strncmp(entry, name, length) == 0 && entry[length] == '=')
			return entry + length + 1;
	return NULL;
}

/* Reads a line; longer ones are cut, which no entry that is of use is. Returns 0 at the end. */
struct lines {
	int fd;
	int left;
	size_t at, end;
	char buffer[1024];
};

static int next_byte(struct lines *in)
{
	if (in->at == in->end) {
		ssize_t got = in->left > 0 ? read(in->fd, in->buffer, sizeof in->buffer) : 0;
		if (got <= 0)
			return -1;
		in->left -= (int)got;
		in->at = 0;
		in->end = (size_t)got;
	}
	return (unsigned char)in->buffer[in->at++];
}

static int next_line(struct lines *in, char *line, size_t room)
{
	size_t length = 0;
	int c;
	while ((c = next_byte(in)) >= 0 && c != '\n')
		if (length < room - 1)
			line[length++] = (char)c;
	line[length] = 0;
	return c >= 0 || length > 0;
}

/* name:password:uid:gid:gecos:home:shell */
static int home_of(char *line, uint32_t uid, char *home, size_t room)
{
	char wanted[12], *field[7];
	for (size_t i = 0; i < 7; i++) {
		field[i] = line;
		line = strchr(line, ':');
		if (!line && i < 5)
			return 0;
		if (!line)
			break;
		*line++ = 0;
	}
	size_t length = strlen(field[5]);
	if (strcmp(field[2], decimal(wanted, uid)) != 0 || length == 0 || length >= room)
		return 0;
	memcpy(home, field[5], length + 1);
	return 1;
}

static void look_up_home(struct run *run, uint32_t uid)
{
	char line[1024];
	struct stat st;
	/* Regular files only: a fifo would hang us (CVE-2024-9676). */
	autoclose int path = root_open(run, "/etc/passwd", ROOT_NO_FOLLOW);
	if (path < 0 || fstat(path, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	autoclose int fd = proc_reopen(run, path, O_RDONLY | O_NONBLOCK);
	struct lines in = { .fd = fd, .left = PASSWD_MAX_BYTES };
	while (fd >= 0 && next_line(&in, line, sizeof line))
		if (home_of(line, uid, run->home, sizeof run->home))
			return;
}

void find_home(struct run *run)
{
	struct plan_cursor rest;
	value values[OP_MAX_FIELDS];
	uint32_t uid = geteuid();
	if (run->home[0] != 0 || (run->root < 0 && !run->in_container))
		return;
	plan_cursor(run->plan, &rest);
	while (plan_next(&rest)) {
		if (rest.code != OP_USER && rest.code != OP_EXEC)
			continue;
		if (wire_decode(plan_op_signature(rest.code), rest.fields, rest.size, values) < 0)
			return;
		if (rest.code == OP_USER) {
			uid = values[OP_USER_UID].u32;
			continue;
		}
		const char *home = variable(&values[OP_EXEC_ENV], "HOME", 4);
		if (home && *home)
			return;
		memcpy(run->home, "/", 2);
		look_up_home(run, uid);
	}
}

/* A NULL-terminated array of a list's strings, with room for one more in front of the NULL. */
static char **array_of(const value *list, char *one_more)
{
	size_t count = 0;
	const char *item;
	struct wire_items items = wire_items(list);
	size_t bytes = ((size_t)list->count + 2) * sizeof(char *);
	char **array = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (array == MAP_FAILED)
		return NULL;
	while ((item = wire_next_str(&items, NULL)))
		if (!one_more || strcmp(item, "HOME=") != 0)
			array[count++] = (char *)item;
	if (one_more)
		array[count++] = one_more;
	array[count] = NULL;
	return array;
}

static int run_file(const char *path, char **argv, char **envp)
{
	execve(path, argv, envp);
	return -errno;
}

/* The first executable file of that name in PATH. Entries that are not absolute would look in the working directory and are skipped. */
static int search(struct run *run, const char *name, const char *path, char **argv, char **envp)
{
	char full[PATH_MAX];
	size_t size = strlen(name);
	int found = -ENOENT;
	for (const char *part = path; part; part = strchr(part, ':') ? strchr(part, ':') + 1 : NULL) {
		size_t length = strcspn(part, ":");
		struct stat st;
		if (part[0] != '/' || length + size + 2 > sizeof full)
			continue;
		memcpy(full, part, length);
		full[length] = '/';
		memcpy(full + length + 1, name, size + 1);
		if (stat(full, &st) < 0 || S_ISDIR(st.st_mode))
			continue;
		int error = run_file(full, argv, envp);
		/* It is there, so ENOENT is about its interpreter. */
		say(run, 0, full, NULL, NULL);
		found = error;
		if (error != -EACCES)
			return error;
	}
	return found == -ENOENT ? say(run, -ENOENT, "exec: \"", name, "\": executable file not found in $PATH") : found;
}

int op_exec(struct run *run, const value *v)
{
	char home[sizeof "HOME=" + sizeof run->home] = "HOME=";
	const char *path = v[OP_EXEC_PATH].str, *in = variable(&v[OP_EXEC_ENV], "PATH", 4);
	const char *given = variable(&v[OP_EXEC_ENV], "HOME", 4);
	find_home(run);
	memcpy(home + 5, run->home[0] ? run->home : "/", run->home[0] ? strlen(run->home) + 1 : 2);
	char **argv = array_of(&v[OP_EXEC_ARGS], NULL);
	char **envp = array_of(&v[OP_EXEC_ENV], given && *given ? NULL : home);
	if (!argv || !envp)
		return -ENOMEM;
	close_all_descriptors(run);
	close(steal_fd(&run->env->release));
	return strchr(path, '/') ? run_file(path, argv, envp) : search(run, path, in ? in : DEFAULT_PATH, argv, envp);
}

/* Above anything that a program gets from us. */
#define ASIDE 256

int op_exec_host(struct run *run, const value *v)
{
	struct wire_items slots = wire_items(&v[OP_EXEC_HOST_SLOTS]);
	int copies[PLAN_SLOTS];
	uint32_t slot, count = 0;
	char **argv = array_of(&v[OP_EXEC_HOST_ARGS], NULL);
	char **envp = array_of(&v[OP_EXEC_HOST_ENV], NULL);
	if (!argv || !envp)
		return -ENOMEM;
	/* Out of the way first: a slot's own number may be one that another is to get. */
	while (wire_next_u32(&slots, &slot)) {
		int fd = slot_fd(run, slot);
		copies[count] = fd < 0 ? fd : (int)k_result(fcntl(fd, F_DUPFD_CLOEXEC, ASIDE));
		if (copies[count++] < 0)
			return say(run, copies[count - 1], "descriptors", NULL, NULL);
	}
	int report = (int)k_result(fcntl(run->env->report, F_DUPFD_CLOEXEC, ASIDE));
	if (report < 0)
		return report;
	run->env->report = report;
	run->root = run->proc = run->own_fds = run->null_device = run->mask_template = -1;
	run->env->image = run->env->proc = run->env->release = -1;
	k_close_range(3, ASIDE - 1);
	for (uint32_t i = 0; i < count; i++)
		if (dup2(copies[i], (int)i + 3) < 0)
			return -errno;
	return run_file(v[OP_EXEC_HOST_PATH].str, argv, envp);
}
