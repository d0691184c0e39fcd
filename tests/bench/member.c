/* SPDX-License-Identifier: Apache-2.0
 * A container's process that does little: for every byte on stdin it uses some memory, or gives it
 * back when it is the next byte's turn, and answers with the byte. */

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* More than the kernel keeps charged in advance for a CPU (64 pages). */
#define SIZE (1 << 20)

int main(void)
{
    char byte;
    char *held = NULL;

    while (read(0, &byte, 1) == 1) {
        if (held) {
            munmap(held, SIZE);
            held = NULL;
        } else {
            held = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (held == MAP_FAILED) {
                perror("mmap");
                return 1;
            }
            memset(held, 1, SIZE);
        }
        if (write(1, &byte, 1) != 1)
            return 1;
    }
    return 0;
}
