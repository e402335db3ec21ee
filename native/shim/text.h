/* Builds short texts in a caller's buffer: stdio would cost more pages than all of the shim's state. */
#ifndef CAISSON_TEXT_H
#define CAISSON_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* `at` stays NUL-terminated; what does not fit is cut and sets `cut`. */
struct text {
	char *at;
	size_t room;
	size_t length;
	int cut;
};

struct text text_in(char *buffer, size_t room);
void text_str(struct text *text, const char *string);
void text_u64(struct text *text, uint64_t value);
void text_hex(struct text *text, uint64_t value);

/* Reads a decimal number; -1 if there is none. `end` (may be NULL) gets what follows. */
int64_t text_parse(const char *at, const char **end);

#endif
