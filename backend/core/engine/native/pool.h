/* Threads that share the items of one piece of work after another.

   Whoever is free takes the next item, and a piece is done when its items are: a thread that the system does not run
   at the moment holds nobody up, unless it stopped in the middle of an item. So a core that another program takes away
   costs its share and no more. */
#ifndef TUNESMITH_POOL_H
#define TUNESMITH_POOL_H

#include <stdint.h>

#define MOST_THREADS 64

/* `thread` is below MOST_THREADS, and no two threads at work have the same one; it may be above the number that was
   asked for, when a thread that was just about to rest finds an item. */
typedef void (*work_on)(void *task, int64_t item, int thread);

/* Between these two calls up to `threads` threads, the caller included, stand ready. Only one caller at a time has
   the others: pool_begin returns how many it has, 1 if another one was first. */
int pool_begin(int threads);
void pool_end(int threads);

/* Call `work` for the items 0 to count - 1, in any order, on `threads` threads as returned by pool_begin; return when
   all are done. */
void pool_run(int threads, work_on work, void *task, int64_t count);

#endif
