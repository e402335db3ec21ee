#include "text.h"

struct text text_in(char *buffer, size_t room)
{
	buffer[0] = '\0';
	return (struct text){ .at = buffer, .room = room };
}

void text_str(struct text *text, const char *string)
{
	for (; *string != '\0'; string++) {
		if (text->length + 1 >= text->room) {
			text->cut = 1;
			break;
		}
		text->at[text->length++] = *string;
	}
	text->at[text->length] = '\0';
}

static void text_number(struct text *text, uint64_t value, unsigned base)
{
	char digits[21];
	char *at = digits + sizeof digits - 1;

	*at = '\0';
	do {
		*--at = "0123456789abcdef"[value % base];
		value /= base;
	} while (value != 0);
	text_str(text, at);
}

void text_u64(struct text *text, uint64_t value)
{
	text_number(text, value, 10);
}

void text_hex(struct text *text, uint64_t value)
{
	text_number(text, value, 16);
}

int64_t text_parse(const char *at, const char **end)
{
	int64_t value = -1;

	for (; *at >= '0' && *at <= '9'; at++) {
		if (value > INT64_MAX / 10 - 10)
			return -1;
		value = (value < 0 ? 0 : value) * 10 + (*at - '0');
	}
	if (end != NULL)
		*end = at;
	return value;
}
