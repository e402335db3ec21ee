/* Which sources this binary was made of; the Makefile says. */
#include "shim.h"

#ifndef CAISSON_BUILD
#define CAISSON_BUILD "dev"
#endif

const char shim_build[] = CAISSON_BUILD;
