// Preloaded into hi: its wall clock is wrong by as many seconds as the file CLOCK_OFFSET_FILE says at the moment. All
// other clocks go right.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, id, time);
    if (result == 0 && id == CLOCK_REALTIME) {
        char text[32] = "";
        int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY | O_CLOEXEC);
        if (file < 0 || read(file, text, sizeof text - 1) < 1) {
            abort();
        }
        close(file);
        time->tv_sec += atoll(text);
    }
    return result;
}
