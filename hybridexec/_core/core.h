/* The compiled core: what its files share.
 *
 * Each type here stands in for Python code that exists beside it and means the same.  docs/architecture.md has a
 * table of them.
 *
 * All of it runs with the GIL held, which is its lock.  No function gives the GIL away but where it calls Python code;
 * after such a call nothing that was read before it may be relied on.
 *
 * References: a parameter is borrowed, and a returned object is the caller's, unless the function says otherwise.
 */
#ifndef HYBRIDEXEC_CORE_H
#define HYBRIDEXEC_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stddef.h>

/* ---------------------------------------------------------------- handle.c */

/* What a handle is made of.  It is derived from asyncio's Handle, whose own slots stay empty: members of the same names
 * hide them. */
typedef struct {
    PyObject *callback;
    PyObject *args; /* a tuple; None once the handle is cancelled */
    PyObject *context;
    PyObject *loop;
    PyObject *source_traceback;
    PyObject *repr;
    char cancelled;
} Handle;

/* The base of engines/handles.FdHandle. */
typedef struct {
    Handle handle;
    PyObject *state; /* a member of FdState */
} FdFields;

typedef struct Timers Timers;

typedef struct {
    Handle handle;
    double when;
    bool is_int;      /* as it was given: programs look at it */
    Timers *timers;   /* borrowed, while it is in that heap; it leaves the heap before that is freed */
    Py_ssize_t place; /* in the heap */
} Timer;

extern PyTypeObject *step_type, *fd_fields_type, *timer_type;
extern Py_ssize_t handle_offset, timer_offset; /* of our fields, behind the slots of the base */

static inline void *fields_at(PyObject *object, Py_ssize_t offset)
{
    return (char *)object + offset;
}

static inline Timer *timer_of(PyObject *timer)
{
    return fields_at(timer, timer_offset);
}

/* NULL if it is none of ours. */
static inline FdFields *fd_fields_of(PyObject *object)
{
    if (Py_IS_TYPE(object, step_type) || Py_IS_TYPE(object, timer_type)) /* as a rule: the other look takes longer */
        return NULL;
    return PyObject_TypeCheck(object, fd_fields_type) ? fields_at(object, handle_offset) : NULL;
}

/* NULL if it is none of ours. */
static inline Handle *handle_of(PyObject *object)
{
    if (Py_IS_TYPE(object, step_type))
        return fields_at(object, handle_offset);
    return Py_IS_TYPE(object, timer_type) ? fields_at(object, timer_offset) : (Handle *)fd_fields_of(object);
}

PyObject *step_new(PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *loop, PyObject *context);
PyObject *timer_new(double when, PyObject *callback, PyObject *const *args, Py_ssize_t count, PyObject *loop,
                    PyObject *context);
int handle_exec(PyObject *module);

/* ---------------------------------------------------------------- ring.c */

typedef struct {
    PyObject_HEAD
    PyObject **items;
    size_t mask; /* the capacity, a power of two, less one */
    size_t head, tail;
} Ring;

extern PyTypeObject *ring_type;

int ring_append(Ring *ring, PyObject *item);
int ring_appendleft(Ring *ring, PyObject *item);

static inline size_t ring_length(const Ring *ring)
{
    return ring->tail - ring->head;
}

/* NULL, without an exception, if it is empty. */
static inline PyObject *ring_popleft(Ring *ring)
{
    return ring_length(ring) == 0 ? NULL : ring->items[ring->head++ & ring->mask];
}
int ring_exec(PyObject *module);

/* ---------------------------------------------------------------- timers.c */

extern PyTypeObject *timers_type;

int timers_push(Timers *timers, PyObject *timer);
void timers_remove(PyObject *timer); /* a timer that is in a heap; the caller has a reference of its own */
int timers_exec(PyObject *module);

int timers_move_due(Timers *timers, double end, Ring *ready);
double timers_first(const Timers *timers); /* infinity: there is none */

/* ---------------------------------------------------------------- batch.c */

typedef struct {
    PyObject_HEAD
    size_t left; /* how many steps are still to be run before the next poll */
} Batch;

extern PyTypeObject *batch_type;

PyObject *batch_new(size_t count);
int batch_exec(PyObject *module);

/* ---------------------------------------------------------------- fields.c */

/* The slots of an LWP that the compiled code looks at (protocol/lwp.py).  NULL: not set yet, or deleted. */
typedef struct {
    PyObject_HEAD
    PyObject *handle;
    PyObject *interrupt;
    PyObject *bound_steps;
    PyObject *state;
    PyObject *carrying;
    PyObject *region;
    PyObject *watch;
    PyObject *luggage;
    double since;
    double deadline;
    unsigned long ident;
    int callbacks; /* of the detector, that its thread is in */
    char slow_exit;
    char lost_loop;
    char in_turns; /* it is in run_turns: what its step writes is queued while it holds the loop */
} LwpFields;

/* The fields of a record that the compiled code looks at (protocol/record.py). */
typedef struct {
    PyObject_HEAD
    PyObject *batch;
    PyObject *deferred;
    PyObject *detached;
    PyObject *holder;
    PyObject *home;
    PyObject *host;
    PyObject *last;
    PyObject *lwps;
    PyObject *moves; /* whose leave and rejoin they are; NULL: call the methods */
    PyObject *mutex;
    PyObject *parked;
    PyObject *pollers;
    PyObject *pool;
    PyObject *preempted;
    PyObject *ready;
    PyObject *returning;
    PyObject *state;
    PyObject *summoned;
    PyObject *timers;
    PyObject *unheld;
    PyObject *waking;
    double away_since;
    double due; /* infinity: never */
    long long claims, handoffs, wakeups;
    unsigned long holder_ident;
    char leaves_plainly; /* as far as the loop is concerned (Reactions.judge) */
    char exhausted;
    char is_running; /* else holder_ident is None */
    char batch_unfinished;
    char stopping;
    char mailed;
    char stale;
    char unseen;
} RecordFields;

/* Those of a Watch (detector/watch.py). */
typedef struct {
    PyObject_HEAD
    PyObject *call;
    PyObject *reactions;
    PyObject *trap;
} WatchFields;

/* Those of a Call (detector/calls.py). */
typedef struct {
    PyObject_HEAD
    PyObject *argument;
    PyObject *code;
    PyObject *detection;
    PyObject *name;
    PyObject *outer;
    PyObject *site;
    double began;
    char is_plain;
    char reported;
} CallFields;

/* Those of an LWP's luggage (following/luggage.py). */
typedef struct {
    PyObject_HEAD
    PyObject *attributes;
    PyObject *task;
    PyObject *tracers;
    PyObject *wardrobe;
    unsigned long identity;
    int pin_count;
    char check_bindings;
} LuggageFields;

/* Those of what follows a loop (following/following.py, marks.py, tracers.py). */
typedef struct {
    PyObject_HEAD
    PyObject *attributes;
    PyObject *away; /* Conversations.away */
    PyObject *held; /* RLocks.held */
    PyObject *loop;
    PyObject *look;
    PyObject *marks;
    PyObject *tracers;
    PyObject *values;
} FollowingFields;

typedef struct {
    PyObject_HEAD
    PyObject *kept;
    PyObject *leaver;
} MarksFields;

typedef struct {
    PyObject_HEAD
    PyObject *profiler;
    PyObject *tracer;
    PyObject *untold;
    char active;
} TracersFields;

extern PyTypeObject *lwp_fields_type, *record_fields_type, *watch_fields_type, *call_fields_type, *luggage_fields_type;
extern PyTypeObject *following_fields_type, *marks_fields_type, *tracers_fields_type;

/* What an LWP has; NULL if that is not ours, or not whole. */
WatchFields *watch_of(LwpFields *lwp);
LuggageFields *luggage_of(LwpFields *lwp);

int fields_exec(PyObject *module);

/* ---------------------------------------------------------------- mutex.c */

bool is_mutex(PyObject *object);
bool mutex_is_owned(PyObject *mutex); /* by the calling thread */
bool mutex_try(PyObject *mutex);      /* whether the calling thread has it, without waiting */
int mutex_release(PyObject *mutex);   /* -1 with an exception if it is not the calling thread's */
int mutex_exec(PyObject *module);

/* ---------------------------------------------------------------- after_step.c */

/* The LWP's step has ended with slow_exit set.  Returns 1 if nothing has to be seen to but that it has been without the loop,
 * and LWP.handle is ended (STEP_ENDED) by now; 0 if it is for Python; -1 with an exception. */
int after_step(LwpFields *lwp, RecordFields *record, FollowingFields *following, PyObject *affinity, PyObject *ended);
int after_step_exec(PyObject *module);

/* ---------------------------------------------------------------- moves.c, calls.c, following.c, tally.c */

/* Carrying.leave and rejoin: of a record whose moves are compiled, if these are known.  1 if the loop was left, or lost; -1
 * with an exception. */
int moves_leave(LwpFields *lwp, PyObject *state);
int moves_rejoin(LwpFields *lwp);

/* Following.detach and attach: of the compiled luggage.  -1 with an exception. */
bool is_following(PyObject *luggage);
int following_detach(PyObject *following, LwpFields *lwp, bool with_step);
int following_attach(PyObject *following, LwpFields *lwp, bool with_step);

/* As Following.dress: whether there is nothing to do; -1 with an exception. */
int following_has_dressed(FollowingFields *following, LwpFields *lwp, LuggageFields *luggage);

int moves_exec(PyObject *module);
int calls_exec(PyObject *module);
int tally_exec(PyObject *module);
int following_exec(PyObject *module);

bool is_tally(PyObject *object);
int tally_count(PyObject *tally, PyObject *kind);
void tally_know(PyObject *blocked, PyObject *unblocked); /* what there is most of */
void tally_add(PyObject *tally, double seconds);

/* ---------------------------------------------------------------- loop.c, poll.c, turns.c, stream.c */

int loop_exec(PyObject *module);
int poll_exec(PyObject *module);
int stream_exec(PyObject *module);
int turns_exec(PyObject *module);

/* Have a transport flushed later, maybe soon: at the end of the step, not of the batch.  Returns 0 if there is nobody who
 * would, and the caller does it; -1 with an exception.  NULL: the transport is queued already. */
int loop_queue(PyObject *loop, PyObject *transport, bool soon);

/* run_turns begins on an LWP's thread, and ends: meanwhile what its steps write is queued.  What is begun has to be ended,
 * with what has been returned. */
char loop_begin_queue(LwpFields *lwp);
int loop_end_queue(PyObject *loop, LwpFields *lwp, char former);

/* The ready queue of a loop; NULL, with an exception, if it is none of ours. */
Ring *loop_ready(PyObject *loop);

bool loop_in_debug(PyObject *loop);
int loop_move_due(PyObject *loop);            /* timers that are due become ready */
double loop_seconds_to_timer(PyObject *loop); /* infinity: there is none; negative: an exception */
int loop_flush(PyObject *loop);               /* the holder */
int loop_flush_late(PyObject *loop);          /* the holder, after each step */

/* Wait for so many seconds (infinity: forever), and make ready what events have come for.  In between, and also after an
 * exception, a function is called, which says whether they are to be dropped: 1 if so, -1 with an exception.  Returns
 * what it has said. */
int poll_wait(PyObject *poll, double seconds, int (*waited)(void *), void *argument);
int poll_look(PyObject *poll); /* the same without waiting.  Returns -1 with an exception */
bool is_poll(PyObject *object);

int stream_flush(PyObject *transport); /* the holder */
void stream_flush_quietly(PyObject *transport);
void stream_forget(PyObject *transport); /* what is queued is not sent */

double now(void); /* as time.monotonic() */

/* ---------------------------------------------------------------- module.c */

/* super(type, self).name(*args, **kwargs) */
PyObject *call_super(PyTypeObject *type, PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t count,
                     PyObject *kwnames);

/* What a call has returned is dropped.  Returns 0; -1 if that is NULL, with an exception. */
int drop(PyObject *result);

/* Whether what a call has returned is true, which is dropped; -1 with an exception. */
int truth(PyObject *result);

/* Whether an attribute is this very object, or is false; -1 with an exception. */
int is_attribute(PyObject *object, PyObject *name, PyObject *value);
int is_false_attribute(PyObject *object, PyObject *name);

/* An exception, or NULL, was put aside by PyErr_GetRaisedException(): it is on its way up once more.  One that has come up
 * since takes its place, and tells of it.  Takes the reference. */
void raise_again(PyObject *aside);

/* A string that is kept for the life of the process. */
typedef struct {
    PyObject **string;
    const char *text;
} Name;

int intern(const Name *names); /* until one whose text is NULL */

/* A type made of a spec, with one base or none, which the module gets by its name.  The caller keeps the reference. */
PyTypeObject *add_type(PyObject *module, PyType_Spec *spec, PyObject *base);

#endif
