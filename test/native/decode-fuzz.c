/*
 * libFuzzer target over both decoders. The first byte chooses: a plan, or the fields of one kind of message. What is accepted is read
 * to its last byte, so that the sanitizers see any value that points outside of its record.
 */
#include <stdlib.h>
#include <string.h>

#include "gen/shim_messages.h"
#include "plan.h"
#include "wire.h"

static const struct {
	uint32_t type;
	const char *signature;
} messages[] = {
#define X(code, name, signature) { code, signature },
	MSG_TABLE(X)
#undef X
};

static volatile uint64_t sink;

static void use(const char *signature, const struct wire_value *v)
{
	for (; *signature; signature++, v++) {
		struct wire_items items = wire_items(v);
		const char *str;
		uint32_t size, number;
		switch (*signature) {
		case 's':
			if (strlen(v->str) != v->size)
				abort();
			break;
		case 'b':
			for (uint32_t i = 0; i < v->size; i++)
				sink += v->bytes[i];
			break;
		case 'S':
			for (uint32_t n = 0; (str = wire_next_str(&items, &size)) || n != v->count; n++)
				if (!str || strlen(str) != size)
					abort();
			break;
		case 'L':
			while (wire_next_u32(&items, &number))
				sink += number;
			break;
		default:
			sink += v->u64;
		}
	}
}

static void use_plan(const uint8_t *data, size_t size)
{
	struct plan plan;
	struct plan_error error = { 0 };
	struct plan_cursor cursor;
	struct wire_value values[OP_MAX_FIELDS];
	if (plan_decode(data, size, &plan, &error) < 0) {
		if (!error.why)
			abort();
		return;
	}
	plan_cursor(&plan, &cursor);
	while (plan_next(&cursor)) {
		const char *signature = plan_op_signature(cursor.code);
		if (wire_decode(signature, cursor.fields, cursor.size, values) < 0)
			abort();
		use(signature, values);
	}
	if (cursor.next != data + size)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct wire_value values[MSG_MAX_FIELDS];
	if (size == 0)
		return 0;
	size_t which = data[0] % (sizeof messages / sizeof *messages + 1);
	/* Of its own, so that a byte read behind it is seen. */
	uint8_t *copy = malloc(size);
	memcpy(copy, data + 1, size - 1);
	if (which == 0)
		use_plan(copy, size - 1);
	else if (wire_decode(messages[which - 1].signature, copy, size - 1, values) == 0)
		use(messages[which - 1].signature, values);
	free(copy);
	return 0;
}
