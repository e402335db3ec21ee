#include "unpack.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static enum fail_kind first_kind;
static char first_text[2 * PATH_MAX + 512];

int fail(enum fail_kind kind, const char *format, ...)
{
	if (first_kind != FAIL_NONE)
		return -1;
	first_kind = kind;
	va_list args;
	va_start(args, format);
	vsnprintf(first_text, sizeof first_text, format, args);
	va_end(args);
	return -1;
}

int fail_errno(int error, const char *format, ...)
{
	if (first_kind != FAIL_NONE)
		return -1;
	if (error < 0)
		error = -error;
	first_kind = error == ENOSPC || error == EDQUOT ? FAIL_SPACE : FAIL_SYSTEM;
	va_list args;
	va_start(args, format);
	int n = vsnprintf(first_text, sizeof first_text, format, args);
	va_end(args);
	if (n >= 0 && (size_t)n < sizeof first_text)
		snprintf(first_text + n, sizeof first_text - (size_t)n, ": %s", strerror(error));
	return -1;
}

enum fail_kind failed_kind(void)
{
	return first_kind;
}

const char *failed_text(void)
{
	return first_text;
}
