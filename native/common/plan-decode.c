/* Everything about a plan that can be refused before anything is forked. */
#include <errno.h>
#include <string.h>

#include "plan.h"
#include "wire.h"

#define MAGIC 0x4e4c5043u
#define VERSION 1
#define HEADER 12
#define OP_HEADER 8
#define CLONE_KINDS 0x7e020080u
#define SECCOMP_MAX_PROGRAM (4096u * 8)

struct op_info {
	uint16_t code;
	const char *name;
	const char *signature;
};

static const struct op_info known[] = {
#define X(code, name, signature) { code, name, signature },
	OP_TABLE(X)
#undef X
};

enum rule { IN = 1, OUT, IN_OR_NONE, PIN, KIND, KINDS };

/* Fields with a meaning that their type does not show. */
static const struct {
	uint8_t code;
	uint8_t field;
	uint8_t rule;
} rules[] = {
	{ OP_JOIN_NS, OP_JOIN_NS_SLOT, IN },
	{ OP_JOIN_NS, OP_JOIN_NS_KIND, KIND },
	{ OP_JOIN_PROCESS, OP_JOIN_PROCESS_SLOT, IN },
	{ OP_JOIN_PROCESS, OP_JOIN_PROCESS_KINDS, KINDS },
	{ OP_NEW_NS, OP_NEW_NS_KINDS, KINDS },
	{ OP_EXPORT, OP_EXPORT_SLOT, IN },
	{ OP_PIN, OP_PIN_SLOT, IN },
	{ OP_PIN, OP_PIN_PIN, PIN },
	{ OP_OPEN_OWN_NS, OP_OPEN_OWN_NS_OUT, OUT },
	{ OP_OPEN_OWN_NS, OP_OPEN_OWN_NS_KIND, KIND },
	{ OP_BIND_OWN_NS, OP_BIND_OWN_NS_KIND, KIND },
	{ OP_OPEN_TREE, OP_OPEN_TREE_OUT, OUT },
	{ OP_FSMOUNT, OP_FSMOUNT_OUT, OUT },
	{ OP_OVERLAY, OP_OVERLAY_OUT, OUT },
	{ OP_OVERLAY, OP_OVERLAY_IDMAP, IN_OR_NONE },
	{ OP_MOUNT_ATTR, OP_MOUNT_ATTR_SLOT, IN },
	{ OP_MOUNT_ATTR, OP_MOUNT_ATTR_USERNS, IN_OR_NONE },
	{ OP_ATTACH_ROOT, OP_ATTACH_ROOT_SLOT, IN },
	{ OP_USE_ROOT, OP_USE_ROOT_SLOT, IN },
	{ OP_ATTACH, OP_ATTACH_SLOT, IN },
	{ OP_OPEN_IN_ROOT, OP_OPEN_IN_ROOT_OUT, OUT },
	{ OP_OPEN_HOST, OP_OPEN_HOST_OUT, OUT },
	{ OP_COPY_TREE, OP_COPY_TREE_INTO, IN },
	{ OP_ATTACH_HOST, OP_ATTACH_HOST_SLOT, IN },
	{ OP_CHOWN_SLOT, OP_CHOWN_SLOT_SLOT, IN },
	{ OP_STDIO, OP_STDIO_STDIN, IN_OR_NONE },
	{ OP_STDIO, OP_STDIO_STDOUT, IN_OR_NONE },
	{ OP_STDIO, OP_STDIO_STDERR, IN_OR_NONE },
	{ OP_CONNECT, OP_CONNECT_OUT, OUT },
};

static const struct op_info *find(uint32_t code)
{
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (known[i].code == code)
			return &known[i];
	return NULL;
}

const char *plan_op_name(uint32_t code)
{
	const struct op_info *info = find(code);
	return info ? info->name : NULL;
}

const char *plan_op_signature(uint32_t code)
{
	const struct op_info *info = find(code);
	return info ? info->signature : NULL;
}

uint32_t plan_known_ops(uint32_t *codes, uint32_t room)
{
	uint32_t count = sizeof known / sizeof *known;
	for (uint32_t i = 0; i < count && i < room; i++)
		codes[i] = known[i].code;
	return count;
}

static const char *broken_rule(enum rule rule, uint32_t value)
{
	int one_bit = value != 0 && (value & (value - 1)) == 0;
	int is_pin = value >= PLAN_FIRST_PIN && value < PLAN_FIRST_PIN + PLAN_PINS;
	switch (rule) {
	case IN:
		return value < PLAN_SLOTS || is_pin ? NULL : "a slot number is out of range";
	case IN_OR_NONE:
		return value < PLAN_SLOTS || is_pin || value == PLAN_NO_SLOT ? NULL : "a slot number is out of range";
	case OUT:
		return value < PLAN_SLOTS ? NULL : "an output slot number is out of range";
	case PIN:
		return is_pin ? NULL : "a pin number is out of range";
	case KIND:
		return one_bit && (value & CLONE_KINDS) ? NULL : "not one kind of namespace";
	case KINDS:
		return value != 0 && (value & ~CLONE_KINDS) == 0 ? NULL : "not kinds of namespaces";
	}
	return NULL;
}

/* A path below /proc/sys: plain components only. */
static int is_sysctl_key(const char *key)
{
	for (;;) {
		size_t length = strcspn(key, "/");
		if (length == 0 || (key[0] == '.' && (length == 1 || (length == 2 && key[1] == '.'))))
			return 0;
		if (key[length] == 0)
			return 1;
		key += length + 1;
	}
}

static const char *broken_program(const struct wire_value *v)
{
	const struct wire_value *slots = &v[OP_EXEC_HOST_SLOTS];
	if (v[OP_EXEC_HOST_ARGS].count == 0 || v[OP_EXEC_HOST_PATH].str[0] != '/')
		return "nothing to execute";
	if (slots->count > PLAN_SLOTS)
		return "too many descriptors";
	for (uint32_t i = 0; i < slots->count; i++)
		if (broken_rule(IN, wire_get_u32(slots->bytes + 4 * i)))
			return "a slot number is out of range";
	return NULL;
}

static const char *broken_value(uint32_t code, const struct wire_value *v)
{
	for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
		const char *why = rules[i].code == code ? broken_rule(rules[i].rule, v[rules[i].field].u32) : NULL;
		if (why)
			return why;
	}
	switch (code) {
	case OP_SECCOMP: {
		uint32_t size = v[OP_SECCOMP_PROGRAM].size;
		return size == 0 || size % 8 != 0 || size > SECCOMP_MAX_PROGRAM ? "not a seccomp program" : NULL;
	}
	case OP_SYSCTL:
		if (!is_sysctl_key(v[OP_SYSCTL_KEY].str))
			return "not a sysctl key";
		/* One write may not become several settings (CVE-2022-0811). */
		return strpbrk(v[OP_SYSCTL_VALUE].str, "\n\r") ? "a sysctl value has more than one line" : NULL;
	case OP_MKDIR:
		return v[OP_MKDIR_MODE].u32 & ~01777u ? "a directory mode has more than permissions and the sticky bit" : NULL;
	case OP_OVERLAY:
		if ((v[OP_OVERLAY_UPPER].size == 0) != (v[OP_OVERLAY_WORK].size == 0))
			return "an overlay needs both or none of upper and work directory";
		return v[OP_OVERLAY_LOWERS].count == 0 ? "an overlay needs a lower directory" : NULL;
	case OP_EXEC:
		return v[OP_EXEC_ARGS].count == 0 || v[OP_EXEC_PATH].size == 0 ? "nothing to execute" : NULL;
	case OP_EXEC_HOST:
		return broken_program(v);
	case OP_HOLD_FROZEN:
		return v[OP_HOLD_FROZEN_PATHS].count == 0 || v[OP_HOLD_FROZEN_PATHS].count > PLAN_HELD_CGROUPS ? "no cgroups, or too many" : NULL;
	case OP_EXPOSE:
		return v[OP_EXPOSE_NAME].size == 0 || strchr(v[OP_EXPOSE_NAME].str, '/') ? "not a name" : NULL;
	case OP_CONNECT:
		return v[OP_CONNECT_PORT].u32 == 0 || v[OP_CONNECT_PORT].u32 > 65535 ? "not a port" : NULL;
	default:
		return NULL;
	}
}

static int refuse(struct plan_error *error, uint32_t op, const char *why, int code)
{
	if (error)
		*error = (struct plan_error){ .op = op, .why = why };
	return code;
}

int plan_decode(const void *bytes, size_t size, struct plan *out, struct plan_error *error)
{
	const uint8_t *at = bytes;
	struct wire_value values[OP_MAX_FIELDS];
	if (size < HEADER || size > PLAN_MAX_BYTES)
		return refuse(error, PLAN_NO_OP, "the plan is too short or too long", -EBADMSG);
	if (wire_get_u32(at) != MAGIC || wire_get_u16(at + 4) != VERSION)
		return refuse(error, PLAN_NO_OP, "not a plan of this version", -EBADMSG);
	if (wire_get_u32(at + 8) != size)
		return refuse(error, PLAN_NO_OP, "the plan's length is not what it says", -EBADMSG);
	uint32_t count = wire_get_u16(at + 6);
	if (count > PLAN_MAX_OPS)
		return refuse(error, PLAN_NO_OP, "too many operations", -EBADMSG);
	const uint8_t *end = at + size;
	at += HEADER;
	for (uint32_t i = 0; i < count; i++) {
		if (end - at < OP_HEADER)
			return refuse(error, i, "the plan ends in an operation", -EBADMSG);
		uint16_t code = wire_get_u16(at);
		uint32_t length = wire_get_u32(at + 4);
		if (wire_get_u16(at + 2) != 0)
			return refuse(error, i, "reserved bits are set", -EBADMSG);
		at += OP_HEADER;
		if (length > (size_t)(end - at))
			return refuse(error, i, "the plan ends in an operation", -EBADMSG);
		const struct op_info *info = find(code);
		if (!info)
			return refuse(error, i, "unknown operation", -ENOSYS);
		if (wire_decode(info->signature, at, length, values) < 0)
			return refuse(error, i, "malformed fields", -EBADMSG);
		const char *why = broken_value(code, values);
		if (why)
			return refuse(error, i, why, -EBADMSG);
		if ((code == OP_EXEC || code == OP_EXEC_HOST || code == OP_REAPER) && i + 1 != count)
			return refuse(error, i, "this operation must be the last", -EBADMSG);
		at += length;
	}
	if (at != end)
		return refuse(error, count, "bytes behind the last operation", -EBADMSG);
	*out = (struct plan){ .bytes = bytes, .size = (uint32_t)size, .count = count };
	return 0;
}

void plan_cursor(const struct plan *plan, struct plan_cursor *cursor)
{
	*cursor = (struct plan_cursor){ .next = plan->bytes + HEADER, .left = plan->count };
}

int plan_next(struct plan_cursor *cursor)
{
	if (cursor->left == 0)
		return 0;
	cursor->left--;
	cursor->code = wire_get_u16(cursor->next);
	cursor->size = wire_get_u32(cursor->next + 4);
	cursor->fields = cursor->next + OP_HEADER;
	cursor->next = cursor->fields + cursor->size;
	return 1;
}

int plan_has(const struct plan *plan, uint32_t code)
{
	struct plan_cursor cursor;
	plan_cursor(plan, &cursor);
	while (plan_next(&cursor))
		if (cursor.code == code)
			return 1;
	return 0;
}

void plan_env_init(struct plan_env *env)
{
	memset(env, 0xff, sizeof *env);
}
