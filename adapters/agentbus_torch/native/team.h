/* Threads that compute together: who does what, and where they wait for one another.
 *
 * OpenMP starts them. Its own barriers have threads sleep, and be woken by the system, as soon as a
 * process has more of them than there are cores, though all others may be idle: torch, used once on
 * another thread of the process, is enough. A step has hundreds of barriers, and would take twice its
 * time. Here no thread sleeps, however long it waits: the system likes to wake a thread on the core of
 * the one that wakes it, where the two then take turns for the rest of the step.
 */

#ifndef AGENTBUS_TEAM_H
#define AGENTBUS_TEAM_H

#include <immintrin.h>
#include <omp.h>
#include <sched.h>
#include <stdint.h>

enum {
    PATIENCE = 2000, /* looks, of some 50 ns, after which a thread lets others have its core */
};

/* What all threads of a team see; 0 at first. */
typedef struct {
    int32_t arrived __attribute__((aligned(64)));
    int32_t round __attribute__((aligned(64)));
    int32_t taken __attribute__((aligned(64))); /* tasks, since the last round */
} Meeting;

/* A team, as one of its threads sees it. */
typedef struct {
    Meeting *meeting;
    int32_t threads;
    int32_t number; /* of this one */
} Team;

typedef struct {
    int64_t from;
    int64_t end;
} Share;

/* Join the team of the parallel region that this thread is in. */
static inline Team join(Meeting *meeting) {
    return (Team){meeting, omp_get_num_threads(), omp_get_thread_num()};
}

/* What this thread does of so many equal tasks. */
static inline Share share_of(const Team *team, int64_t tasks) {
    int64_t each = tasks / team->threads, rest = tasks % team->threads;
    int64_t from = team->number * each + (team->number < rest ? team->number : rest);
    return (Share){from, from + each + (team->number < rest)};
}

/* Take the next of tasks that take different times. */
static inline int64_t next_task(const Team *team) {
    return __atomic_fetch_add(&team->meeting->taken, 1, __ATOMIC_RELAXED);
}

/* Wait for all others. What any has written before is seen by all behind it. */
static inline void await_all(const Team *team) {
    Meeting *meeting = team->meeting;
    int32_t round = __atomic_load_n(&meeting->round, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_ACQ_REL) == team->threads) {
        meeting->arrived = meeting->taken = 0;
        __atomic_store_n(&meeting->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int looks = 0; __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE) == round; looks++)
        if (looks < PATIENCE)
            _mm_pause();
        else
            sched_yield();
}

#endif
