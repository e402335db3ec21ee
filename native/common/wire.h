/*
 * The field codec shared by plans and by the shim's protocol; src/lib/wire.ts describes the bytes. A record is described by a
 * signature from the generated tables: u u32, U u64, I i64, s str, b bytes, S strs, L u32s. Decoding neither copies nor
 * allocates: values point into the record, which may be unaligned.
 */
#ifndef CAISSON_WIRE_H
#define CAISSON_WIRE_H

#include <stddef.h>
#include <stdint.h>

struct wire_value {
	union {
		uint32_t u32;
		uint64_t u64;
		int64_t i64;
		const char *str;      /* s: NUL-terminated, no NUL inside */
		const uint8_t *bytes; /* b, and the first item of S and L */
	};
	uint32_t size;  /* s: length without the NUL; b: length; S and L: bytes that all items occupy */
	uint32_t count; /* S and L: number of items */
};

/* Decodes exactly one record. Returns 0, or -EBADMSG when it is short, overlong, or a string is not what it must be. */
int wire_decode(const char *signature, const void *bytes, size_t size, struct wire_value *values);

/* Goes through the items of a decoded S or L. */
struct wire_items {
	const uint8_t *next;
	uint32_t left;
};
struct wire_items wire_items(const struct wire_value *list);
/* NULL behind the last item. `size` may be NULL. */
const char *wire_next_str(struct wire_items *items, uint32_t *size);
/* 0 behind the last item. */
int wire_next_u32(struct wire_items *items, uint32_t *value);

/* Little-endian loads and stores at any alignment. */
uint16_t wire_get_u16(const uint8_t *at);
uint32_t wire_get_u32(const uint8_t *at);
uint64_t wire_get_u64(const uint8_t *at);

/* Appends to a buffer of the caller. What does not fit sets `overflow` and is dropped; look at it once at the end. */
struct wire_writer {
	uint8_t *buffer;
	size_t capacity;
	size_t length;
	int overflow;
};
void wire_put_u16(struct wire_writer *out, uint16_t value);
void wire_put_u32(struct wire_writer *out, uint32_t value);
void wire_put_u64(struct wire_writer *out, uint64_t value);
void wire_put_i64(struct wire_writer *out, int64_t value);
void wire_put_str(struct wire_writer *out, const char *value);
void wire_put_bytes(struct wire_writer *out, const void *value, uint32_t size);
/* u32s from a native array. */
void wire_put_u32s(struct wire_writer *out, const uint32_t *values, uint32_t count);

#endif
