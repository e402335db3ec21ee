/* Unit tests of the wire codec and of the plan decoder: what is well formed comes out as it went in, anything else is refused. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gen/shim_messages.h"
#include "plan.h"
#include "wire.h"

static int passed, failed;
static uint8_t buffer[1 << 16];

#define CHECK(name, condition) \
	do { \
		if (condition) \
			passed++; \
		else { \
			failed++; \
			printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, name); \
		} \
	} while (0)

static struct wire_writer start(void)
{
	memset(buffer, 0, sizeof buffer);
	return (struct wire_writer){ .buffer = buffer, .capacity = sizeof buffer };
}

/* A copy of exactly this size, so that the sanitizer sees each byte read beyond. */
static int decode_exactly(const char *signature, size_t size, struct wire_value *values)
{
	uint8_t *copy = malloc(size ? size : 1);
	memcpy(copy, buffer, size);
	int result = wire_decode(signature, copy, size, values);
	free(copy);
	return result;
}

static int plan_exactly(size_t size, struct plan *plan, struct plan_error *error)
{
	static uint8_t *copy;
	free(copy);
	copy = malloc(size ? size : 1);
	memcpy(copy, buffer, size);
	return plan_decode(copy, size, plan, error);
}

static void wire_round_trip(void)
{
	struct wire_value v[7];
	struct wire_writer out = start();
	uint32_t numbers[] = { 1, 0xffffffff };
	wire_put_u32(&out, 0xfffffffe);
	wire_put_u64(&out, 0x8877665544332211u);
	wire_put_i64(&out, -5);
	wire_put_str(&out, "h\xc3\xa9");
	wire_put_bytes(&out, "\0\1", 2);
	wire_put_u32(&out, 2);
	wire_put_str(&out, "");
	wire_put_str(&out, "two");
	wire_put_u32s(&out, numbers, 2);
	CHECK("writer has room", !out.overflow);
	CHECK("all types decode", wire_decode("uUIsbSL", buffer, out.length, v) == 0);
	CHECK("u32", v[0].u32 == 0xfffffffe && v[0].u64 == 0xfffffffe);
	CHECK("u64", v[1].u64 == 0x8877665544332211u);
	CHECK("i64", v[2].i64 == -5);
	CHECK("str", strcmp(v[3].str, "h\xc3\xa9") == 0 && v[3].size == 3);
	CHECK("bytes", v[4].size == 2 && v[4].bytes[1] == 1);
	struct wire_items items = wire_items(&v[5]);
	uint32_t size, number;
	CHECK("first of strs", strcmp(wire_next_str(&items, &size), "") == 0 && size == 0);
	CHECK("second of strs", strcmp(wire_next_str(&items, &size), "two") == 0 && size == 3);
	CHECK("end of strs", wire_next_str(&items, NULL) == NULL);
	items = wire_items(&v[6]);
	CHECK("u32s", wire_next_u32(&items, &number) && number == 1 && wire_next_u32(&items, &number) && number == 0xffffffff);
	CHECK("end of u32s", !wire_next_u32(&items, &number));
	for (size_t size = 0; size < out.length; size++)
		CHECK("each shorter record is refused", decode_exactly("uUIsbSL", size, v) == -EBADMSG);
	CHECK("a trailing byte is refused", decode_exactly("uUIsbSL", out.length + 1, v) == -EBADMSG);
	CHECK("an empty record needs no bytes", wire_decode("", buffer, 0, v) == 0);
	CHECK("an empty record allows none", wire_decode("", buffer, 1, v) == -EBADMSG);
}

static void wire_strings(void)
{
	struct wire_value v[1];
	struct wire_writer out = start();
	wire_put_str(&out, "abc");
	buffer[5] = 0;
	CHECK("NUL inside a string", decode_exactly("s", out.length, v) == -EBADMSG);
	out = start();
	wire_put_str(&out, "abc");
	buffer[7] = 'd';
	CHECK("string without NUL", decode_exactly("s", out.length, v) == -EBADMSG);
	out = start();
	wire_put_u32(&out, 0xffffffff);
	wire_put_u32(&out, 0);
	CHECK("length that wraps", decode_exactly("s", out.length, v) == -EBADMSG);
	CHECK("bytes that wrap", decode_exactly("b", out.length, v) == -EBADMSG);
	CHECK("count of strings that wraps", decode_exactly("S", out.length, v) == -EBADMSG);
	CHECK("count of numbers that wraps", decode_exactly("L", out.length, v) == -EBADMSG);
	out = start();
	wire_put_u32(&out, 0x40000001);
	wire_put_u32(&out, 0);
	CHECK("count of numbers times four that wraps", decode_exactly("L", out.length, v) == -EBADMSG);
	CHECK("unknown type", decode_exactly("?", out.length, v) == -EBADMSG);
}

static void writer_overflow(void)
{
	uint8_t small[8];
	struct wire_writer out = { .buffer = small, .capacity = sizeof small };
	wire_put_u64(&out, 1);
	CHECK("fits exactly", !out.overflow && out.length == 8);
	wire_put_u16(&out, 1);
	CHECK("does not fit", out.overflow && out.length == 8);
	out = (struct wire_writer){ .buffer = small, .capacity = sizeof small };
	wire_put_str(&out, "1234");
	CHECK("string does not fit", out.overflow);
}

static void plan_begin(struct wire_writer *out, uint16_t count)
{
	*out = start();
	wire_put_u32(out, 0x4e4c5043);
	wire_put_u16(out, 1);
	wire_put_u16(out, count);
	wire_put_u32(out, 0);
}

static size_t op_begin(struct wire_writer *out, uint16_t code)
{
	wire_put_u16(out, code);
	wire_put_u16(out, 0);
	wire_put_u32(out, 0);
	return out->length;
}

static void patch(size_t at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		buffer[at + (size_t)i] = (uint8_t)(value >> 8 * i);
}

static void op_end(struct wire_writer *out, size_t at)
{
	patch(at - 4, (uint32_t)(out->length - at));
	patch(8, (uint32_t)out->length);
}

static int decode_u32_op(uint16_t code, const uint32_t *fields, size_t count, struct plan_error *error)
{
	struct wire_writer out;
	struct plan plan;
	plan_begin(&out, 1);
	size_t at = op_begin(&out, code);
	for (size_t i = 0; i < count; i++)
		wire_put_u32(&out, fields[i]);
	op_end(&out, at);
	return plan_exactly(out.length, &plan, error);
}

static void plan_header(void)
{
	struct wire_writer out;
	struct plan plan;
	struct plan_error error;
	plan_begin(&out, 0);
	patch(8, 12);
	CHECK("empty plan", plan_exactly(12, &plan, &error) == 0 && plan.count == 0);
	for (size_t size = 0; size < 12; size++)
		CHECK("short header", plan_exactly(size, &plan, &error) == -EBADMSG && error.op == PLAN_NO_OP);
	CHECK("trailing byte", plan_exactly(13, &plan, &error) == -EBADMSG);
	buffer[0] ^= 1;
	CHECK("magic", plan_exactly(12, &plan, &error) == -EBADMSG);
	plan_begin(&out, 0);
	patch(8, 12);
	buffer[4] = 2;
	CHECK("version", plan_exactly(12, &plan, &error) == -EBADMSG);
	plan_begin(&out, 1);
	patch(8, 12);
	CHECK("missing op", plan_exactly(12, &plan, &error) == -EBADMSG && error.op == 0);
	plan_begin(&out, PLAN_MAX_OPS + 1);
	patch(8, 12);
	CHECK("too many ops", plan_exactly(12, &plan, &error) == -EBADMSG && error.op == PLAN_NO_OP);
}

static void plan_operations(void)
{
	struct wire_writer out;
	struct plan plan;
	struct plan_error error;
	struct plan_cursor cursor;
	plan_begin(&out, 2);
	op_end(&out, op_begin(&out, OP_CLEAN_START));
	size_t at = op_begin(&out, OP_HOSTNAME);
	wire_put_str(&out, "name");
	op_end(&out, at);
	CHECK("two ops", plan_exactly(out.length, &plan, &error) == 0 && plan.count == 2);
	CHECK("has", plan_has(&plan, OP_HOSTNAME) && !plan_has(&plan, OP_EXEC));
	plan_cursor(&plan, &cursor);
	CHECK("first op", plan_next(&cursor) && cursor.code == OP_CLEAN_START && cursor.size == 0);
	CHECK("second op", plan_next(&cursor) && cursor.code == OP_HOSTNAME && cursor.size == 9);
	CHECK("no third op", !plan_next(&cursor));
	for (size_t size = 12; size < out.length; size++) {
		patch(8, (uint32_t)size);
		CHECK("each shorter plan", plan_exactly(size, &plan, &error) == -EBADMSG);
	}
	patch(8, (uint32_t)out.length + 1);
	CHECK("bytes behind the last op", plan_exactly(out.length + 1, &plan, &error) == -EBADMSG && error.op == 2);
	patch(8, (uint32_t)out.length);
	buffer[14] = 1;
	CHECK("reserved bits", plan_exactly(out.length, &plan, &error) == -EBADMSG && error.op == 0);
	buffer[14] = 0;
	patch(24, 0xfffffff0);
	CHECK("op length that wraps", plan_exactly(out.length, &plan, &error) == -EBADMSG && error.op == 1);
	CHECK("unknown op", decode_u32_op(200, NULL, 0, &error) == -ENOSYS && error.op == 0);
	CHECK("op zero", decode_u32_op(0, NULL, 0, &error) == -ENOSYS);
}

static void plan_rules(void)
{
	struct plan_error error;
	CHECK("slot 63", decode_u32_op(OP_EXPORT, (uint32_t[]){ 63 }, 1, &error) == 0);
	CHECK("pin 95", decode_u32_op(OP_EXPORT, (uint32_t[]){ 95 }, 1, &error) == 0);
	CHECK("slot 96", decode_u32_op(OP_EXPORT, (uint32_t[]){ 96 }, 1, &error) == -EBADMSG);
	CHECK("no slot", decode_u32_op(OP_EXPORT, (uint32_t[]){ PLAN_NO_SLOT }, 1, &error) == -EBADMSG);
	CHECK("stdio from no slots", decode_u32_op(OP_STDIO, (uint32_t[]){ PLAN_NO_SLOT, PLAN_NO_SLOT, PLAN_NO_SLOT }, 3, &error) == 0);
	CHECK("stdio from slot 100", decode_u32_op(OP_STDIO, (uint32_t[]){ 0, 1, 100 }, 3, &error) == -EBADMSG);
	CHECK("output into a pin", decode_u32_op(OP_OPEN_OWN_NS, (uint32_t[]){ 64, 0x40000000 }, 2, &error) == -EBADMSG);
	CHECK("output into slot 0", decode_u32_op(OP_OPEN_OWN_NS, (uint32_t[]){ 0, 0x40000000 }, 2, &error) == 0);
	CHECK("two kinds for one", decode_u32_op(OP_OPEN_OWN_NS, (uint32_t[]){ 0, 0x60000000 }, 2, &error) == -EBADMSG);
	CHECK("pin 63", decode_u32_op(OP_PIN, (uint32_t[]){ 0, 63 }, 2, &error) == -EBADMSG);
	CHECK("pin 64", decode_u32_op(OP_PIN, (uint32_t[]){ 0, 64 }, 2, &error) == 0);
	CHECK("no kinds", decode_u32_op(OP_NEW_NS, (uint32_t[]){ 0 }, 1, &error) == -EBADMSG);
	CHECK("CLONE_VM as a kind", decode_u32_op(OP_NEW_NS, (uint32_t[]){ 0x100 }, 1, &error) == -EBADMSG);
	CHECK("reaper alone", decode_u32_op(OP_REAPER, NULL, 0, &error) == 0);
}

static int decode_program(uint32_t size)
{
	static const uint8_t zeros[40000];
	struct wire_writer out;
	struct plan plan;
	plan_begin(&out, 1);
	size_t at = op_begin(&out, OP_SECCOMP);
	wire_put_u32(&out, 0);
	wire_put_bytes(&out, zeros, size);
	op_end(&out, at);
	return plan_exactly(out.length, &plan, NULL);
}

static int decode_sysctl(const char *key, const char *value)
{
	struct wire_writer out;
	struct plan plan;
	plan_begin(&out, 1);
	size_t at = op_begin(&out, OP_SYSCTL);
	wire_put_str(&out, key);
	wire_put_str(&out, value);
	op_end(&out, at);
	return plan_exactly(out.length, &plan, NULL);
}

static void plan_values(void)
{
	struct wire_writer out;
	struct plan plan;
	struct plan_error error;
	CHECK("seccomp program", decode_program(8) == 0 && decode_program(4096 * 8) == 0);
	CHECK("no seccomp program", decode_program(0) == -EBADMSG);
	CHECK("half an instruction", decode_program(12) == -EBADMSG);
	CHECK("too long a seccomp program", decode_program(4097 * 8) == -EBADMSG);
	CHECK("sysctl", decode_sysctl("net/ipv4/ip_forward", "1") == 0 && decode_sysctl("net/..x/y", "") == 0);
	CHECK("sysctl that climbs", decode_sysctl("net/../kernel", "1") == -EBADMSG && decode_sysctl("..", "1") == -EBADMSG);
	CHECK("sysctl of no name", decode_sysctl("", "1") == -EBADMSG && decode_sysctl("a//b", "1") == -EBADMSG && decode_sysctl("a/", "1") == -EBADMSG);
	CHECK("absolute sysctl", decode_sysctl("/a", "1") == -EBADMSG);
	CHECK("sysctl of two lines", decode_sysctl("a", "1\n2") == -EBADMSG);
	plan_begin(&out, 2);
	op_end(&out, op_begin(&out, OP_REAPER));
	op_end(&out, op_begin(&out, OP_CLEAN_START));
	CHECK("reaper not last", plan_exactly(out.length, &plan, &error) == -EBADMSG && error.op == 0);
	plan_begin(&out, 1);
	size_t at = op_begin(&out, OP_EXEC);
	wire_put_str(&out, "sh");
	wire_put_u32(&out, 0);
	wire_put_u32(&out, 0);
	op_end(&out, at);
	CHECK("exec without arguments", plan_exactly(out.length, &plan, &error) == -EBADMSG);
}

/* Every known op: its table says what the generated constants say, and refuses an empty and a cut record. */
static void tables(void)
{
	uint32_t codes[256], count = plan_known_ops(codes, 256);
	CHECK("ops are known", count > 50 && count == plan_known_ops(codes, 0));
	for (uint32_t i = 0; i < count; i++) {
		CHECK("op has a name", plan_op_name(codes[i]) && plan_op_signature(codes[i]));
		CHECK("op is in range", codes[i] <= OP_MAX_CODE && strlen(plan_op_signature(codes[i])) <= OP_MAX_FIELDS);
		struct plan_error error;
		int expected = plan_op_signature(codes[i])[0] ? -EBADMSG : 0;
		CHECK("op without fields", decode_u32_op((uint16_t)codes[i], NULL, 0, &error) == expected);
	}
	CHECK("no such op", plan_op_name(0) == NULL && plan_op_signature(9999) == NULL);
}

static void denials(void)
{
	CHECK("nothing denied", kernel_deny("") == 0 && kernel_deny(NULL) == 0 && !kernel_is_restricted());
	CHECK("unknown name", kernel_deny("openat3") == -EINVAL && !kernel_is_restricted());
	CHECK("names", kernel_deny("openat2,,close_range") == 0 && kernel_is_restricted());
}

int main(void)
{
	wire_round_trip();
	wire_strings();
	writer_overflow();
	plan_header();
	plan_operations();
	plan_rules();
	plan_values();
	tables();
	denials();
	printf("decode: %d passed, %d failed\n", passed, failed);
	return failed != 0;
}
