/*
 * The attacker of test/race: exchanges names without pause until it is killed, and counts how often in a file that both sides map.
 * swap COUNTER DIRECTORY A B [A B]...    renames each A and B into each other
 * swap COUNTER -m DIRECTORY              mounts a tmpfs there and takes it away
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	prctl(PR_SET_PDEATHSIG, 9);
	int fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 8) < 0)
		return 2;
	volatile unsigned long *count = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (count == MAP_FAILED)
		return 2;
	if (strcmp(argv[2], "-m") == 0)
		for (;;)
			*count += mount("swap", argv[3], "tmpfs", 0, "size=4k") == 0 && umount2(argv[3], MNT_DETACH) == 0;
	if (chdir(argv[2]) < 0)
		return 2;
	for (;;)
		for (int i = 3; i + 1 < argc; i += 2)
			*count += syscall(SYS_renameat2, AT_FDCWD, argv[i], AT_FDCWD, argv[i + 1], 2 /* RENAME_EXCHANGE */) == 0;
}
