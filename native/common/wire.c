#include "wire.h"

#include <errno.h>
#include <string.h>

uint16_t wire_get_u16(const uint8_t *at)
{
	return (uint16_t)(at[0] | at[1] << 8);
}

uint32_t wire_get_u32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

uint64_t wire_get_u64(const uint8_t *at)
{
	return wire_get_u32(at) | (uint64_t)wire_get_u32(at + 4) << 32;
}

/* Length of one str including its prefix and NUL, or 0 if what is left does not hold one. */
static size_t str_extent(const uint8_t *at, size_t left)
{
	if (left < 5)
		return 0;
	size_t size = wire_get_u32(at);
	if (size > left - 5 || memchr(at + 4, 0, size + 1) != at + 4 + size)
		return 0;
	return size + 5;
}

/* Length of one field, or 0 if it is malformed. Every field has at least its four bytes. */
static size_t field(char type, const uint8_t *at, size_t left, struct wire_value *value)
{
	if (left < 4)
		return 0;
	uint32_t head = wire_get_u32(at);
	size_t extent = 4;
	value->size = 0;
	value->count = 0;
	switch (type) {
	case 'u':
		value->u64 = head;
		return extent;
	case 'U':
	case 'I':
		if (left < 8)
			return 0;
		value->u64 = wire_get_u64(at);
		return 8;
	case 's':
		extent = str_extent(at, left);
		value->str = (const char *)at + 4;
		value->size = head;
		return extent;
	case 'b':
		if (head > left - 4)
			return 0;
		value->bytes = at + 4;
		value->size = head;
		return extent + head;
	case 'L':
		if (head > (left - 4) / 4)
			return 0;
		extent += (size_t)head * 4;
		break;
	case 'S':
		if (head > (left - 4) / 5)
			return 0;
		for (uint32_t i = 0; i < head; i++) {
			size_t item = str_extent(at + extent, left - extent);
			if (item == 0)
				return 0;
			extent += item;
		}
		break;
	default:
		return 0;
	}
	value->bytes = at + 4;
	value->size = (uint32_t)(extent - 4);
	value->count = head;
	return extent;
}

int wire_decode(const char *signature, const void *bytes, size_t size, struct wire_value *values)
{
	const uint8_t *at = bytes;
	if (size > UINT32_MAX)
		return -EBADMSG;
	for (; *signature; signature++, values++) {
		size_t extent = field(*signature, at, size, values);
		if (extent == 0)
			return -EBADMSG;
		at += extent;
		size -= extent;
	}
	return size == 0 ? 0 : -EBADMSG;
}

struct wire_items wire_items(const struct wire_value *list)
{
	return (struct wire_items){ .next = list->bytes, .left = list->count };
}

const char *wire_next_str(struct wire_items *items, uint32_t *size)
{
	if (items->left == 0)
		return NULL;
	const char *str = (const char *)items->next + 4;
	uint32_t length = wire_get_u32(items->next);
	items->left--;
	items->next += (size_t)length + 5;
	if (size)
		*size = length;
	return str;
}

int wire_next_u32(struct wire_items *items, uint32_t *value)
{
	if (items->left == 0)
		return 0;
	*value = wire_get_u32(items->next);
	items->left--;
	items->next += 4;
	return 1;
}

static uint8_t *room(struct wire_writer *out, size_t more)
{
	if (out->overflow || more > out->capacity - out->length) {
		out->overflow = 1;
		return NULL;
	}
	uint8_t *at = out->buffer + out->length;
	out->length += more;
	return at;
}

static void put(struct wire_writer *out, uint64_t value, size_t size)
{
	uint8_t *at = room(out, size);
	for (size_t i = 0; at && i < size; i++)
		at[i] = (uint8_t)(value >> 8 * i);
}

void wire_put_u16(struct wire_writer *out, uint16_t value)
{
	put(out, value, 2);
}

void wire_put_u32(struct wire_writer *out, uint32_t value)
{
	put(out, value, 4);
}

void wire_put_u64(struct wire_writer *out, uint64_t value)
{
	put(out, value, 8);
}

void wire_put_i64(struct wire_writer *out, int64_t value)
{
	put(out, (uint64_t)value, 8);
}

void wire_put_str(struct wire_writer *out, const char *value)
{
	size_t size = strlen(value);
	put(out, size, 4);
	uint8_t *at = room(out, size + 1);
	if (at)
		memcpy(at, value, size + 1);
}

void wire_put_bytes(struct wire_writer *out, const void *value, uint32_t size)
{
	put(out, size, 4);
	uint8_t *at = room(out, size);
	if (at && size != 0)
		memcpy(at, value, size);
}

void wire_put_u32s(struct wire_writer *out, const uint32_t *values, uint32_t count)
{
	put(out, count, 4);
	for (uint32_t i = 0; i < count; i++)
		put(out, values[i], 4);
}
