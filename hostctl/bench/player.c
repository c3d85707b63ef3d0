/*
 * Plays one end of a conversation on a Unix socket, over and over, and says when
 * each time was over.  Usage:
 *
 *     player CPU COUNT SOCKET < SCRIPT     one end, against a server
 *     player CPU COUNT - CPU < SCRIPT      both ends, against a mirror of itself
 *
 * A script has a step on each line; those after "loop" are repeated COUNT times.
 *
 *     send HEX ZEROS [BYTES]   a message, with that many zeros behind it, and a file of BYTES
 *     answer HEX ZEROS         the same, with id, address and count of the DMA_READ received last
 *     count HEX LAG            the same, its last 4 bytes the number of this time less LAG
 *     receive BYTES            a message of that length, which is no error
 *     take                     a message, whatever it is
 *     copy BYTES               nothing; the mirror copies as many bytes
 *     loop
 *     end
 *
 * It prints "ready" before the loop, waits for a line, and then prints COUNT + 1
 * times in nanoseconds.  The mirror receives what is sent and sends what is
 * received, and does nothing else: the floor under every server.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 16, DMA = 16, LARGEST = 2 << 20, STEPS = 4096, ERROR = 0x20 };
enum kind { SEND, ANSWER, COUNT, RECEIVE, TAKE, COPY };

struct step {
    enum kind kind;
    char *data;
    size_t size;
    long lag;
    int file;
};

static struct step steps[STEPS];
static int setup, total, mirrored;
static char buffer[LARGEST], other[LARGEST];

_Noreturn static void fail(const char *what)
{
    if (mirrored) /* the player is gone, or says itself what is wrong */
        _exit(1);
    fprintf(stderr, "player: %s: %s\n", what, errno ? strerror(errno) : "wrong");
    exit(1);
}

static void read_step(struct step *step, char *line)
{
    char word[16] = "", *hex;
    int used = 0;
    size_t more = 0, file = 0;

    sscanf(line, "%15s %n", word, &used);
    hex = line + used;
    step->file = -1;
    if (!strcmp(word, "take")) {
        step->kind = TAKE;
        return;
    }
    if (!strcmp(word, "receive") || !strcmp(word, "copy")) {
        step->kind = word[0] == 'r' ? RECEIVE : COPY;
        step->size = strtoul(hex, NULL, 10);
        if (step->size < HEADER || step->size > LARGEST)
            fail(word);
        return;
    }
    if (!strcmp(word, "send"))
        step->kind = SEND;
    else if (!strcmp(word, "answer"))
        step->kind = ANSWER;
    else if (!strcmp(word, "count"))
        step->kind = COUNT;
    else
        fail(word);
    step->size = strcspn(hex, " \n") / 2;
    sscanf(hex + 2 * step->size, "%zu %zu", &more, &file);
    if (step->kind == COUNT) {
        step->lag = more;
        more = 0;
    }
    step->data = calloc(1, step->size + more);
    if (!step->data || step->size < HEADER + DMA * (step->kind == ANSWER) ||
        step->size + more > LARGEST)
        fail("memory");
    for (size_t i = 0; i < step->size; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            fail("hex");
        step->data[i] = byte;
    }
    step->size += more;
    if (file) {
        step->file = memfd_create("player", MFD_CLOEXEC);
        if (step->file < 0 || ftruncate(step->file, file))
            fail("memfd");
    }
}

static void read_script(void)
{
    char *line = NULL;
    size_t room = 0;

    setup = -1;
    while (getline(&line, &room, stdin) > 0 && strcmp(line, "end\n")) {
        if (!strcmp(line, "loop\n"))
            setup = total;
        else if (total < STEPS)
            read_step(&steps[total++], line);
        else
            fail("script");
    }
    free(line);
    if (setup < 0)
        fail("script without a loop");
}

/* Send all of a message, and a descriptor with its first byte. */
static void push(int sock, const char *data, size_t size, int file)
{
    while (size) {
        ssize_t sent;
        if (file < 0) {
            sent = send(sock, data, size, MSG_NOSIGNAL);
        } else {
            union { char room[CMSG_SPACE(sizeof file)]; struct cmsghdr align; } control = { 0 };
            struct iovec piece = { (void *)data, size };
            struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1,
                .msg_control = control.room, .msg_controllen = sizeof control.room };
            struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(sizeof file);
            memcpy(CMSG_DATA(rights), &file, sizeof file);
            sent = sendmsg(sock, &message, MSG_NOSIGNAL);
        }
        if (sent < 0)
            fail("send");
        data += sent;
        size -= sent;
        file = -1;
    }
}

static void pull(int sock, char *data, size_t size)
{
    while (size) {
        ssize_t got = recv(sock, data, size, 0);
        if (got <= 0)
            fail("receive");
        data += got;
        size -= got;
    }
}

/* Receive bytes with a descriptor, and close it. */
static void pull_file(int sock, char *data, size_t size)
{
    union { char room[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec piece = { data, size };
    struct msghdr message = { .msg_iov = &piece, .msg_iovlen = 1,
        .msg_control = control.room, .msg_controllen = sizeof control.room };
    ssize_t got = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    int file;

    if (got <= 0 || !rights)
        fail("receive");
    memcpy(&file, CMSG_DATA(rights), sizeof file);
    close(file);
    pull(sock, data + got, size - got);
}

static uint32_t word(const char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void play(int sock, const struct step *step, long time)
{
    uint32_t number;

    switch (step->kind) {
    case COPY:
        return;
    case COUNT:
        number = time > step->lag ? time - step->lag : 0;
        memcpy(step->data + step->size - sizeof number, &number, sizeof number);
        push(sock, step->data, step->size, -1);
        return;
    case ANSWER:
        memcpy(step->data, buffer, sizeof(uint16_t));
        memcpy(step->data + HEADER, buffer + HEADER, DMA);
        /* fallthrough */
    case SEND:
        push(sock, step->data, step->size, step->file);
        return;
    case RECEIVE:
        pull(sock, buffer, step->size);
        break;
    case TAKE:
        pull(sock, buffer, HEADER);
        if (word(buffer + 4) < HEADER || word(buffer + 4) > LARGEST)
            fail("length");
        pull(sock, buffer + HEADER, word(buffer + 4) - HEADER);
        break;
    }
    if (word(buffer + 8) & ERROR) {
        errno = word(buffer + 12);
        fail("refused");
    }
    if (step->kind == RECEIVE && word(buffer + 4) != step->size) {
        errno = 0;
        fail("length");
    }
}

/* The other end of the loop, as plain as can be. */
static void mirror(int sock, long count)
{
    while (count--) {
        for (int i = setup; i < total; i++) {
            size_t size = 0;
            if (steps[i].kind == COPY) {
                memcpy(other, buffer, steps[i].size);
            } else if (steps[i].kind == RECEIVE) {
                uint32_t length = steps[i].size;
                memcpy(buffer + 4, &length, sizeof length);
                memset(buffer + 8, 0, sizeof length);
                push(sock, buffer, steps[i].size, -1);
            } else if (steps[i].file >= 0) {
                pull_file(sock, buffer, steps[i].size);
            } else {
                /* What comes in a row is read as it comes. */
                size = steps[i].size;
                while (i + 1 < total && steps[i + 1].kind <= COUNT && steps[i + 1].file < 0 &&
                       size + steps[i + 1].size <= LARGEST)
                    size += steps[++i].size;
                pull(sock, buffer, size);
            }
        }
    }
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail("sched_setaffinity");
}

static int reach(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof address.sun_path)
        fail("path");
    strcpy(address.sun_path, path);
    if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof address))
        fail(path);
    return sock;
}

static int reflect(int cpu, long count)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        fail("socketpair");
    switch (fork()) {
    case -1:
        fail("fork");
    case 0:
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        mirrored = 1;
        close(ends[0]);
        pin(cpu);
        mirror(ends[1], count);
        _exit(0);
    }
    close(ends[1]);
    return ends[0];
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 4 || (!strcmp(argv[3], "-") && argc < 5))
        fail("arguments");
    long count = atol(argv[2]);
    uint64_t *times = calloc(count + 1, sizeof *times);
    int sock, first = 0;

    if (!times)
        fail("memory");
    read_script();
    pin(atoi(argv[1]));
    if (strcmp(argv[3], "-")) {
        sock = reach(argv[3]);
        while (first < setup)
            play(sock, &steps[first++], 0);
    } else {
        sock = reflect(atoi(argv[4]), count);
    }
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF)
        return 0;
    times[0] = now();
    for (long i = 1; i <= count; i++) {
        for (int at = setup; at < total; at++)
            play(sock, &steps[at], i);
        times[i] = now();
    }
    for (long i = 0; i <= count; i++)
        printf("%llu\n", (unsigned long long)times[i]);
    return 0;
}
