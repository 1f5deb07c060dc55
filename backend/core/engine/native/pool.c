#include "pool.h"

#include <pthread.h>
#include <unistd.h>

/* Turns of waiting, some ten microseconds, before a thread sleeps. Whoever waits longer than that waits for a thread
   that is not running, and would only use up its own share of a busy core: the two would run by turns, a time slice for
   every piece of work. A thread that slept is run at once when it is woken. */
#define SPINS 400

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ __volatile__("yield")
#else
#define PAUSE() (void)0
#endif

#define GET(value) __atomic_load_n(&(value), __ATOMIC_SEQ_CST)
#define SET(value, to) __atomic_store_n(&(value), to, __ATOMIC_SEQ_CST)

static struct {
    pthread_mutex_t taken; /* held by the caller that has the threads */
    pthread_mutex_t lock;
    pthread_cond_t more, done;
    int started;  /* threads besides the callers */
    pid_t owner;  /* the process that started them: a child after fork has none of them */
    int wanted;   /* how many of them the present call may have; 0 between calls */
    int sleeping; /* how many of them sleep */
    int waiting;  /* whether the caller sleeps */
    work_on work;
    void *task;
    /* The number of the piece above, the items nobody has taken yet below. An item is taken by counting down, which
       fails if the piece has changed meanwhile; and no piece can change before all of its items are done. */
    uint64_t ticket;
    int64_t undone;
} pool = {
    .taken = PTHREAD_MUTEX_INITIALIZER,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .more = PTHREAD_COND_INITIALIZER,
    .done = PTHREAD_COND_INITIALIZER,
};

static int has_work(int thread) { return thread <= GET(pool.wanted) && (uint32_t)GET(pool.ticket); }

/* Take and do one item; 0 if none is left. */
static int do_one(int thread) {
    uint64_t ticket = GET(pool.ticket);
    while ((uint32_t)ticket) {
        if (!__atomic_compare_exchange_n(&pool.ticket, &ticket, ticket - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            continue;
        pool.work(pool.task, (int64_t)(uint32_t)ticket - 1, thread);
        if (__atomic_sub_fetch(&pool.undone, 1, __ATOMIC_SEQ_CST) == 0 && GET(pool.waiting)) {
            pthread_mutex_lock(&pool.lock);
            pthread_cond_signal(&pool.done);
            pthread_mutex_unlock(&pool.lock);
        }
        return 1;
    }
    return 0;
}

static void *serve(void *given) {
    const int thread = (int)(intptr_t)given;
    for (;;) {
        for (int spins = 0; spins < SPINS; spins++) {
            if (has_work(thread) && do_one(thread)) spins = 0;
            PAUSE();
        }
        pthread_mutex_lock(&pool.lock);
        SET(pool.sleeping, pool.sleeping + 1);
        while (!has_work(thread)) pthread_cond_wait(&pool.more, &pool.lock);
        SET(pool.sleeping, pool.sleeping - 1);
        pthread_mutex_unlock(&pool.lock);
    }
    return NULL;
}

int pool_begin(int threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads < 2 || pthread_mutex_trylock(&pool.taken)) return 1;
    if (pool.owner != getpid()) {
        pool.owner = getpid();
        pool.started = pool.sleeping = 0;
    }
    while (pool.started < threads - 1) {
        pthread_t made;
        if (pthread_create(&made, NULL, serve, (void *)(intptr_t)(pool.started + 1))) break;
        pthread_detach(made);
        pool.started++;
    }
    threads = pool.started + 1 < threads ? pool.started + 1 : threads;
    if (threads < 2) pthread_mutex_unlock(&pool.taken);
    else SET(pool.wanted, threads - 1);
    return threads;
}

void pool_end(int threads) {
    if (threads < 2) return;
    SET(pool.wanted, 0);
    pthread_mutex_unlock(&pool.taken);
}

void pool_run(int threads, work_on work, void *task, int64_t count) {
    if (threads < 2 || count < 2) {
        for (int64_t item = 0; item < count; item++) work(task, item, 0);
        return;
    }
    pool.work = work;
    pool.task = task;
    SET(pool.undone, count);
    SET(pool.ticket, ((pool.ticket >> 32) + 1) << 32 | (uint64_t)count);
    if (GET(pool.sleeping)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.more);
        pthread_mutex_unlock(&pool.lock);
    }
    while (do_one(0)) {}
    for (int spins = 0; spins < SPINS && GET(pool.undone); spins++) PAUSE();
    if (!GET(pool.undone)) return;
    pthread_mutex_lock(&pool.lock);
    SET(pool.waiting, 1);
    while (GET(pool.undone)) pthread_cond_wait(&pool.done, &pool.lock);
    SET(pool.waiting, 0);
    pthread_mutex_unlock(&pool.lock);
}
