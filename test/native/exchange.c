/* Exchanges two names without pause until it is killed: the attacker of race.test.ts. exchange DIRECTORY A B */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4 || chdir(argv[1]) < 0)
		return 2;
	for (;;)
		syscall(SYS_renameat2, AT_FDCWD, argv[2], AT_FDCWD, argv[3], 2 /* RENAME_EXCHANGE */);
}
