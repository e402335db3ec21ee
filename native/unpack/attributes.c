#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

static bool starts_with(const char *text, const char *head)
{
	return strncmp(text, head, strlen(head)) == 0;
}

/*
 * trusted.overlay.* and user.overlay.* would forge redirects, opaque marks and whiteouts; security.selinux and the like are
 * the node's business.
 */
static bool xattr_allowed(const char *name)
{
	if (strcmp(name, "security.capability") == 0)
		return true;
	return starts_with(name, "user.") && !starts_with(name, "user.overlay.");
}

static int xattr_failed(int error, const struct entry *entry, const struct xattr *xattr, struct applied *applied)
{
	/* The filesystem has no xattrs, or none of this kind on special files: nothing is lost that could be kept. */
	if (error == ENOTSUP || (error == EPERM && starts_with(xattr->name, "user."))) {
		applied->stripped_xattrs++;
		return 0;
	}
	/* The kernel checks the format of security.capability. */
	if (error == EINVAL || error == E2BIG || error == ERANGE)
		return fail(FAIL_INVALID, "%s: extended attribute %s is refused by the kernel", entry->name, xattr->name);
	return fail_errno(error, "%s: cannot set extended attribute %s", entry->name, xattr->name);
}

static int set_xattrs(int fd, const char *name, const struct entry *entry, struct applied *applied)
{
	for (size_t i = 0; i < entry->xattr_count; i++) {
		const struct xattr *xattr = &entry->xattrs[i];
		if (!xattr_allowed(xattr->name)) {
			applied->stripped_xattrs++;
			continue;
		}
		int rc = name == NULL ? fsetxattr(fd, xattr->name, xattr->value, xattr->length, 0)
				      : lsetxattr(name, xattr->name, xattr->value, xattr->length, 0);
		if (rc < 0 && xattr_failed(errno, entry, xattr, applied) < 0)
			return -1;
	}
	return 0;
}

int attributes_of_fd(int fd, const struct entry *entry, struct applied *applied, bool times)
{
	/* chown clears the set-id bits and security.capability: it goes first. */
	if (fchown(fd, entry->uid, entry->gid) < 0)
		return fail_errno(errno, "%s: cannot set the owner", entry->name);
	if (set_xattrs(fd, NULL, entry, applied) < 0)
		return -1;
	if (fchmod(fd, entry->mode) < 0)
		return fail_errno(errno, "%s: cannot set the mode", entry->name);
	const struct timespec stamps[2] = { entry->atime, entry->mtime };
	if (times && futimens(fd, stamps) < 0)
		return fail_errno(errno, "%s: cannot set the times", entry->name);
	return 0;
}

int attributes_of_name(int parent, const char *name, const struct entry *entry, struct applied *applied)
{
	if (fchownat(parent, name, entry->uid, entry->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail_errno(errno, "%s: cannot set the owner", entry->name);
	if (entry->xattr_count > 0) {
		/* There is no lsetxattrat() on the kernels that we support: the name is looked up from the parent as cwd. */
		if (fchdir(parent) < 0)
			return fail_errno(errno, "%s: cannot enter the parent", entry->name);
		if (set_xattrs(-1, name, entry, applied) < 0)
			return -1;
	}
	/* The node was made a moment ago by this only process in here, so it is no symlink; and the mount follows none. */
	if (entry->type != '2' && fchmodat(parent, name, entry->mode, 0) < 0)
		return fail_errno(errno, "%s: cannot set the mode", entry->name);
	const struct timespec stamps[2] = { entry->atime, entry->mtime };
	if (utimensat(parent, name, stamps, AT_SYMLINK_NOFOLLOW) < 0)
		return fail_errno(errno, "%s: cannot set the times", entry->name);
	return 0;
}
