/* The hot moves of the protocol: a step leaves the loop, and rejoins it.
 *
 * The text is protocol/carrying.py, which tells the protocol from top to bottom; what the two moves are made of is in
 * record.py, waking.py and order.py there.  Each function here has the name and the meaning of one there.  What is rare
 * is a call of the Python method, on the same fields, under the same mutex: there is one text of it.
 *
 * The moves reach the world by the few functions of World, and are given the LWP: so the explorer (tests/support) plays
 * this very code, on threads and a clock of its own, and both cores have to tell the same story.
 */
#include "core.h"

#include <math.h>

typedef struct Moves Moves;

/* How the mutex is taken, and what time it is. */
typedef struct {
    int (*lock)(RecordFields *record, PyObject *mutex);
    double (*now)(Moves *moves);
} World;

struct Moves {
    PyObject_HEAD
    const World *world;
    PyObject *clock; /* the explorer's; None: the system's */
    PyObject *left_behind;
    PyObject *step_ended, *break_poll;
    PyObject *parked, *woken, *polling, *running, *marked, *blocked, *returning, *preempted; /* LwpState */
    PyObject *free, *held, *draining, *forked;                                               /* LoopState */
    double return_bound, home_bound;
};

static PyTypeObject *moves_type;
static PyObject *acquire_name, *release_name, *is_owned_name, *wait_for_name;
static PyObject *append_name, *appendleft_name, *pop_name, *when_name;
static PyObject *leave_name, *rejoin_name, *luggage_name, *attach_name, *detach_name, *prepared_name, *prepare_name;
static PyObject *split_batch_name, *stay_name, *repair_name, *grant_name, *successor_name, *send_name, *launched_name;
static PyObject *wake_name, *wait_name, *heed_name, *max_lwps_name;
static PyObject *with_step; /* ("with_step",) */

/* ---------------------------------------------------------------- the world */

/* Without waiting, as a rule.  A wait is Python's: a signal handler that comes then finds a frame of this package, by
 * which what it raises is put off (signals/shield.py). */
static int lock_of_system(RecordFields *record, PyObject *mutex)
{
    int taken = is_mutex(mutex) ? mutex_try(mutex) : truth(PyObject_CallMethodOneArg(mutex, acquire_name, Py_False));
    if (taken != 0)
        return taken < 0 ? -1 : 0;
    if (drop(PyObject_CallMethodOneArg((PyObject *)record, wait_for_name, mutex)) == 0)
        return 0;
    PyObject *raised = PyErr_GetRaisedException();
    if (truth(PyObject_CallMethodNoArgs(mutex, is_owned_name)) > 0) /* a tracer has raised on the way back */
        drop(PyObject_CallMethodNoArgs(mutex, release_name));
    PyErr_SetRaisedException(raised); /* instead of any other */
    return -1;
}

static double now_of_system(Moves *Py_UNUSED(moves))
{
    return now();
}

static int lock_of_explorer(RecordFields *Py_UNUSED(record), PyObject *mutex)
{
    return drop(PyObject_CallMethodNoArgs(mutex, acquire_name));
}

static double now_of_explorer(Moves *moves)
{
    PyObject *time = PyObject_CallNoArgs(moves->clock);
    double seconds = time == NULL ? -1.0 : PyFloat_AsDouble(time);
    Py_XDECREF(time);
    return seconds;
}

static const World system_world = {lock_of_system, now_of_system};
static const World explorer_world = {lock_of_explorer, now_of_explorer};

/* ---------------------------------------------------------------- small parts */

/* Call a method for what it does, where an exception may be on its way up already. */
static int call_quietly(PyObject *object, PyObject *name, PyObject *first, PyObject *second)
{
    PyObject *raised = PyErr_GetRaisedException();
    int done = drop(PyObject_CallMethodObjArgs(object, name, first, second, NULL));
    raise_again(raised);
    return done;
}

/* The mutex of the record, taken; NULL with an exception.  A fork in the middle of a move replaces that of the child. */
static PyObject *lock(Moves *moves, RecordFields *record)
{
    PyObject *mutex = Py_XNewRef(record->mutex);
    if (mutex == NULL)
        PyErr_SetString(PyExc_AttributeError, "the record's mutex was deleted");
    else if (moves->world->lock(record, mutex) < 0)
        Py_CLEAR(mutex);
    return mutex;
}

/* Takes the reference. */
static int unlock(PyObject *mutex)
{
    bool is_ours = is_mutex(mutex) && mutex_is_owned(mutex);
    int done = is_ours ? mutex_release(mutex) : call_quietly(mutex, release_name, NULL, NULL);
    Py_DECREF(mutex);
    return done;
}

static LwpFields *lwp_of(PyObject *object)
{
    if (object != NULL && PyObject_TypeCheck(object, lwp_fields_type))
        return (LwpFields *)object;
    PyErr_SetString(PyExc_TypeError, "an LWP is expected");
    return NULL;
}

/* NULL, without an exception, if there is none. */
static LwpFields *home_of(RecordFields *record)
{
    PyObject *home = record->home;
    return home != NULL && PyObject_TypeCheck(home, lwp_fields_type) ? (LwpFields *)home : NULL;
}

static void set_state(LwpFields *lwp, PyObject *state)
{
    Py_XSETREF(lwp->state, Py_NewRef(state));
}

/* Those of a queue; -1 with an exception. */
static Py_ssize_t length(PyObject *queue)
{
    if (queue == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a queue of the record was deleted");
        return -1;
    }
    return PyList_CheckExact(queue) ? PyList_GET_SIZE(queue) : PyObject_Size(queue);
}

static void expect(RecordFields *record, double when)
{
    if (when < record->due)
        record->due = when;
}

static int tell_luggage(RecordFields *record, PyObject *name, PyObject *lwp, int with)
{
    if (record->host == NULL)
        return (PyErr_SetString(PyExc_AttributeError, "the record has no host"), -1);
    PyObject *luggage = PyObject_GetAttr(record->host, luggage_name);
    PyObject *args[] = {luggage, lwp, with ? Py_True : Py_False};
    if (luggage == NULL)
        return -1;
    int done;
    if (is_following(luggage) && PyObject_TypeCheck(lwp, lwp_fields_type))
        done = (name == attach_name ? following_attach : following_detach)(luggage, (LwpFields *)lwp, with);
    else
        done = drop(PyObject_VectorcallMethod(name, args, 2, with_step));
    Py_DECREF(luggage);
    return done;
}

/* ---------------------------------------------------------------- order.py */

/* The first of those that return; NULL with an exception. */
static LwpFields *first_return(RecordFields *record)
{
    PyObject *first = PySequence_GetItem(record->returning, 0);
    LwpFields *lwp = first == NULL ? NULL : lwp_of(first);
    Py_XDECREF(first); /* it is in the queue */
    return lwp;
}

/* Whether the first of those that return, if there is one, has waited for so long that nobody may barge in before it. */
static int is_late_return(Moves *moves, RecordFields *record, double time)
{
    Py_ssize_t waiting = length(record->returning);
    if (waiting <= 0)
        return (int)waiting;
    LwpFields *first = first_return(record);
    return first == NULL ? -1 : time - first->since >= moves->return_bound;
}

static double next_deadline(RecordFields *record)
{
    if (Py_IS_TYPE(record->timers, timers_type))
        return timers_first((Timers *)record->timers);
    PyObject *first = PySequence_GetItem(record->timers, 0);
    if (first == NULL) {
        if (PyErr_ExceptionMatches(PyExc_IndexError))
            PyErr_Clear();
        return INFINITY;
    }
    PyObject *when = PyObject_GetAttr(first, when_name);
    double deadline = when == NULL ? -1.0 : PyFloat_AsDouble(when);
    Py_XDECREF(when);
    Py_DECREF(first);
    return deadline;
}

static int soonest_poll(RecordFields *record, double *soonest)
{
    *soonest = INFINITY;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(record->pollers); i++) {
        LwpFields *poller = lwp_of(PyList_GET_ITEM(record->pollers, i));
        if (poller == NULL)
            return -1;
        *soonest = fmin(*soonest, poller->deadline);
    }
    return 0;
}

/* ---------------------------------------------------------------- record.py */

static bool is_claimable(Moves *moves, RecordFields *record)
{
    return record->state == moves->free || record->state == moves->draining;
}

static bool is_home_wanted(RecordFields *record, LwpFields *home)
{
    return record->stopping || record->summoned != Py_None || home->interrupt != Py_None;
}

static int is_unheard(Moves *moves, RecordFields *record)
{
    LwpFields *home = home_of(record);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(record->pollers); i++) {
        LwpFields *poller = lwp_of(PyList_GET_ITEM(record->pollers, i));
        Py_ssize_t bound = poller == NULL ? -1 : length(poller->bound_steps);
        if (bound != 0)
            return bound < 0 ? -1 : 1;
        if (poller != home)
            continue;
        if (record->mailed || is_home_wanted(record, home))
            return 1;
        if (record->holder != Py_None) {
            double time = moves->world->now(moves);
            if (PyErr_Occurred() != NULL)
                return -1;
            if (time - record->away_since >= moves->home_bound)
                return 1;
        }
    }
    return 0;
}

static int resume(Moves *moves, RecordFields *record, LwpFields *lwp)
{
    LwpFields *home = home_of(record);
    record->holder_ident = lwp->ident;
    record->is_running = true;
    set_state(lwp, moves->running);
    record->due = INFINITY;
    int unheard = record->mailed ? 1 : is_unheard(moves, record);
    if (unheard < 0)
        return -1;
    if (unheard)
        record->due = -INFINITY;
    else if (home != NULL && home != lwp) {
        if (home->interrupt != Py_None || record->summoned != Py_None)
            record->due = -INFINITY;
        else if (home->state == moves->parked)
            record->due = record->away_since + moves->home_bound;
    }
    Py_ssize_t waiting = length(record->returning);
    LwpFields *first = waiting > 0 ? first_return(record) : NULL;
    if (waiting < 0 || (waiting > 0 && first == NULL))
        return -1;
    if (first != NULL)
        expect(record, first->since + moves->return_bound);
    return 0;
}

static int hold(Moves *moves, RecordFields *record, LwpFields *lwp)
{
    Py_XSETREF(record->state, Py_NewRef(moves->held));
    Py_XSETREF(record->holder, Py_NewRef(lwp));
    if (record->last == record->home) {
        record->away_since = moves->world->now(moves);
        if (PyErr_Occurred() != NULL)
            return -1;
    }
    Py_XSETREF(record->last, Py_NewRef(lwp));
    record->claims++;
    return 0;
}

/* What has waited for the LWP's step is next. */
static int end_deferral(RecordFields *record)
{
    while (length(record->deferred) > 0) {
        PyObject *step = PyObject_CallMethodNoArgs(record->deferred, pop_name);
        PyObject *done = step == NULL ? NULL : PyObject_CallMethodOneArg(record->ready, appendleft_name, step);
        Py_XDECREF(step);
        if (drop(done) < 0)
            return -1;
    }
    return PyErr_Occurred() != NULL ? -1 : 0;
}

static int take(Moves *moves, RecordFields *record, LwpFields *lwp)
{
    if (record->holder != (PyObject *)lwp && hold(moves, record, lwp) < 0)
        return -1;
    if (resume(moves, record, lwp) < 0)
        return -1;
    int with = PySet_Contains(record->detached, (PyObject *)lwp);
    if (with < 0 || tell_luggage(record, attach_name, (PyObject *)lwp, with) < 0)
        return -1;
    if (!with)
        return 0;
    if (PySet_Discard(record->detached, (PyObject *)lwp) < 0 || end_deferral(record) < 0)
        return -1;
    if (record->exhausted) {
        PyObject *most = PyObject_GetAttr((PyObject *)record, max_lwps_name);
        long max_lwps = most == NULL ? -1 : PyLong_AsLong(most);
        Py_XDECREF(most);
        if (PyErr_Occurred() != NULL)
            return -1;
        if (PySet_GET_SIZE(record->detached) * 2 <= max_lwps)
            record->exhausted = false;
    }
    return 0;
}

static int give_up(RecordFields *record)
{
    PyObject *holder = record->holder;
    if (holder != Py_None) {
        int with = PySet_Contains(record->detached, holder);
        if (with < 0 || tell_luggage(record, detach_name, holder, with) < 0)
            return -1;
    }
    Py_XSETREF(record->state, Py_NewRef(record->unheld));
    Py_XSETREF(record->holder, Py_NewRef(Py_None));
    record->holder_ident = 0;
    record->is_running = true;
    return 0;
}

static int queue_as_returning(Moves *moves, RecordFields *record, LwpFields *lwp, double since)
{
    lwp->since = since;
    set_state(lwp, moves->returning);
    if (drop(PyObject_CallMethodOneArg(record->returning, append_name, (PyObject *)lwp)) < 0)
        return -1;
    expect(record, since + moves->return_bound);
    return 0;
}

/* ---------------------------------------------------------------- waking.py */

/* An LWP is woken for a free loop.  Returns it, if it has to be told; else None. */
static PyObject *awaken(Moves *moves, RecordFields *record, LwpFields *lwp)
{
    Py_XSETREF(record->waking, Py_NewRef(lwp));
    if (lwp->state == moves->woken)
        return Py_NewRef(Py_None);
    set_state(lwp, moves->woken);
    record->wakeups++;
    return Py_NewRef(lwp);
}

/* Who polls need not be told: it comes in time, and nothing else is to be done.  -1 with an exception. */
static int is_polled_for(RecordFields *record)
{
    double soonest;
    Py_ssize_t timers = length(record->timers);
    if (timers < 0 || soonest_poll(record, &soonest) < 0)
        return -1;
    double deadline = timers > 0 ? next_deadline(record) : INFINITY;
    Py_ssize_t others = PyErr_Occurred() != NULL ? -1 : length(record->preempted);
    Py_ssize_t ready = others < 0 ? -1 : length(record->ready);
    if (others < 0 || ready < 0)
        return -1;
    return !(deadline < soonest) && others == 0 && ready == 0 && !record->stopping;
}

/* Who has to be told that the loop is free: an LWP, an Action or None. */
static PyObject *successor_of(Moves *moves, RecordFields *record)
{
    Py_ssize_t waiting = length(record->returning);
    if (waiting < 0)
        return NULL;
    if (waiting > 0) {
        double time = moves->world->now(moves);
        int late = PyErr_Occurred() != NULL ? -1 : is_late_return(moves, record, time);
        LwpFields *first = late < 0 ? NULL : first_return(record);
        if (first == NULL)
            return NULL;
        if (late)
            return PyObject_CallMethodOneArg((PyObject *)record, grant_name, (PyObject *)first);
        if (record->waking != Py_None)
            return Py_NewRef(Py_None);
        return awaken(moves, record, first);
    }
    if (record->waking != Py_None)
        return Py_NewRef(Py_None);
    if (record->unheld == moves->free) {
        LwpFields *home = home_of(record);
        if (PyList_GET_SIZE(record->pollers) > 0) {
            int polled = is_polled_for(record);
            int unheard = polled > 0 ? is_unheard(moves, record) : polled;
            if (polled < 0 || unheard < 0)
                return NULL;
            if (polled)
                return Py_NewRef(unheard ? moves->break_poll : Py_None);
        }
        if (home != NULL && home->state == moves->parked)
            return awaken(moves, record, home);
        Py_ssize_t parked = PyList_GET_SIZE(record->parked);
        if (parked > 0) {
            LwpFields *last = lwp_of(PyList_GET_ITEM(record->parked, parked - 1));
            PyObject *told = last == NULL ? NULL : awaken(moves, record, last);
            if (told == NULL || PyList_SetSlice(record->parked, parked - 1, parked, NULL) < 0)
                Py_CLEAR(told);
            return told;
        }
    }
    return PyObject_CallMethodNoArgs((PyObject *)record, successor_name); /* nothing has changed so far */
}

static PyObject *offer(Moves *moves, RecordFields *record)
{
    if (is_claimable(moves, record))
        return successor_of(moves, record);
    LwpFields *holder = record->holder == Py_None ? NULL : lwp_of(record->holder);
    if (holder == NULL)
        return PyErr_Occurred() != NULL ? NULL : Py_NewRef(Py_None);
    return Py_NewRef(holder->state == moves->polling ? moves->break_poll : Py_None); /* poke_holder */
}

static int send_to(RecordFields *record, PyObject *successor)
{
    if (successor == Py_None)
        return 0;
    PyObject *done, *launched = NULL;
    if (PyObject_TypeCheck(successor, lwp_fields_type) &&
        (launched = PyObject_GetAttr(successor, launched_name)) == NULL)
        return -1;
    done = launched == Py_True ? PyObject_CallMethodNoArgs(successor, wake_name)
                               : PyObject_CallMethodOneArg((PyObject *)record, send_name, successor);
    Py_XDECREF(launched);
    return drop(done);
}

/* ---------------------------------------------------------------- leave */

/* Whether an LWP is at hand for the next move: what may be refused is reserved before anything changes. */
static int is_prepared(RecordFields *record)
{
    if (record->pool == NULL)
        return (PyErr_SetString(PyExc_AttributeError, "the record has no pool"), -1);
    PyObject *pool = Py_NewRef(record->pool);
    int is = is_attribute(pool, prepared_name, Py_None);
    if (is >= 0)
        is = is == 0 ? 1 : truth(PyObject_CallMethodNoArgs(pool, prepare_name));
    Py_DECREF(pool);
    return is;
}

static int part(Moves *moves, RecordFields *record, LwpFields *lwp, PyObject *state)
{
    lwp->slow_exit = lwp->lost_loop = true;
    Py_ssize_t left = PyObject_LengthHint(record->batch, 0);
    if (left < 0)
        return -1;
    record->batch_unfinished = left > 0;
    if (lwp->handle == moves->step_ended &&
        drop(PyObject_CallMethodNoArgs((PyObject *)record, split_batch_name)) < 0)
        return -1;
    set_state(lwp, state);
    if (PySet_Add(record->detached, (PyObject *)lwp) < 0)
        return -1;
    record->handoffs++;
    if (state == moves->preempted) {
        lwp->since = moves->world->now(moves);
        if (PyErr_Occurred() != NULL ||
            drop(PyObject_CallMethodOneArg(record->preempted, append_name, (PyObject *)lwp)) < 0)
            return -1;
    }
    return give_up(record);
}

/* With the mutex.  Returns who has to be told, NULL if the loop was not left, maybe with an exception. */
static PyObject *leave_locked(Moves *moves, RecordFields *record, LwpFields *lwp, PyObject *state, PyObject *still)
{
    if (record->holder != (PyObject *)lwp || record->state != moves->held)
        return NULL;
    if (still != Py_None && truth(PyObject_CallNoArgs(still)) <= 0) /* R1 */
        return NULL;
    if (is_prepared(record) <= 0)
        return NULL;
    PyObject *before = Py_NewRef(lwp->state), *successor = NULL;
    if (part(moves, record, lwp, state) < 0)
        call_quietly((PyObject *)record, stay_name, (PyObject *)lwp, before);
    else if ((successor = successor_of(moves, record)) == NULL)
        call_quietly((PyObject *)record, repair_name, NULL, NULL);
    Py_DECREF(before);
    return successor;
}

/* Whether the loop was left; -1 with an exception. */
static int do_leave(Moves *moves, RecordFields *record, LwpFields *lwp, PyObject *state, PyObject *still)
{
    PyObject *mutex = lock(moves, record);
    if (mutex == NULL)
        return -1;
    PyObject *successor = leave_locked(moves, record, lwp, state, still);
    if (unlock(mutex) < 0 || successor == NULL) {
        Py_XDECREF(successor);
        return PyErr_Occurred() != NULL ? -1 : 0;
    }
    int sent = send_to(record, successor);
    Py_DECREF(successor);
    if (sent < 0) {
        call_quietly((PyObject *)record, repair_name, NULL, NULL);
        return -1;
    }
    return 1;
}

/* ---------------------------------------------------------------- rejoin */

/* What rejoin does with the mutex. */
typedef enum {
    FAILED = -1,
    STAYED, /* the LWP had not lost the loop */
    TAKEN,
    QUEUED,
} Rejoined;

/* Sets who has to be told, and in which queue the LWP waits, if it does. */
static Rejoined rejoin_locked(Moves *moves, RecordFields *record, LwpFields *lwp, PyObject **successor,
                              PyObject **queue)
{
    if (record->state == moves->forked) {
        PyObject *error = PyObject_CallOneArg(moves->left_behind, (PyObject *)lwp);
        if (error != NULL)
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(error);
        return FAILED;
    }
    if (lwp->state == moves->running || lwp->state == moves->polling)
        return STAYED;
    if (lwp->state == moves->marked) { /* R1 */
        set_state(lwp, moves->running);
        return STAYED;
    }
    *queue = lwp->state == moves->preempted ? moves->preempted : moves->returning;
    if (lwp->state != moves->blocked) {
        *successor = Py_NewRef(Py_None);
        return QUEUED;
    }
    double time = moves->world->now(moves);
    if (PyErr_Occurred() != NULL)
        return FAILED;
    int late = is_claimable(moves, record) ? is_late_return(moves, record, time) : 1;
    if (late < 0)
        return FAILED;
    if (!late)
        return take(moves, record, lwp) < 0 ? FAILED : TAKEN;
    if (queue_as_returning(moves, record, lwp, time) < 0 || (*successor = offer(moves, record)) == NULL)
        return FAILED;
    return QUEUED;
}

static int wait_in(PyObject *queue, RecordFields *record, LwpFields *lwp)
{
    if (drop(PyObject_CallMethodObjArgs((PyObject *)record, wait_name, (PyObject *)lwp, queue, NULL)) < 0)
        return -1;
    if (record->summoned != Py_None && (PyObject *)lwp == record->home)
        return drop(PyObject_CallMethodOneArg((PyObject *)record, heed_name, (PyObject *)lwp));
    return 0;
}

/* Whether the LWP had lost the loop; -1 with an exception. */
static int do_rejoin(Moves *moves, RecordFields *record, LwpFields *lwp)
{
    PyObject *mutex = lock(moves, record);
    if (mutex == NULL)
        return -1;
    PyObject *successor = NULL, *queue = NULL;
    Rejoined rejoined = rejoin_locked(moves, record, lwp, &successor, &queue);
    if (unlock(mutex) < 0)
        rejoined = FAILED;
    if (rejoined == QUEUED && (send_to(record, successor) < 0 || wait_in(queue, record, lwp) < 0))
        rejoined = FAILED;
    Py_XDECREF(successor);
    return rejoined == FAILED ? -1 : rejoined != STAYED;
}

/* ---------------------------------------------------------------- for Python */

/* Whether the containers that are looked into without a question are what they are taken for. */
static bool is_whole(RecordFields *record)
{
    return record->pollers != NULL && PyList_Check(record->pollers) && record->parked != NULL &&
           PyList_Check(record->parked) && record->detached != NULL && PySet_Check(record->detached);
}

static bool are_ours(PyObject *const *args, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count < least || count > most || !PyObject_TypeCheck(args[0], record_fields_type) ||
        !PyObject_TypeCheck(args[1], lwp_fields_type)) {
        PyErr_SetString(PyExc_TypeError, "a record and an LWP are expected");
        return false;
    }
    if (is_whole((RecordFields *)args[0]))
        return true;
    PyErr_SetString(PyExc_TypeError, "Record.pollers and parked are lists, detached is a set");
    return false;
}

static PyObject *leave(Moves *moves, PyObject *const *args, Py_ssize_t count)
{
    if (!are_ours(args, count, 3, 4))
        return NULL;
    int left = do_leave(moves, (RecordFields *)args[0], (LwpFields *)args[1], args[2], count == 4 ? args[3] : Py_None);
    return left < 0 ? NULL : PyBool_FromLong(left);
}

static PyObject *rejoin(Moves *moves, PyObject *const *args, Py_ssize_t count)
{
    if (!are_ours(args, count, 2, 2))
        return NULL;
    int lost = do_rejoin(moves, (RecordFields *)args[0], (LwpFields *)args[1]);
    return lost < 0 ? NULL : PyBool_FromLong(lost);
}

/* The compiled moves of an LWP's record; NULL if it has none, or the method has to say what is wrong with it. */
static Moves *moves_of(LwpFields *lwp)
{
    RecordFields *record = (RecordFields *)lwp->carrying;
    bool are = record->moves != NULL && Py_IS_TYPE(record->moves, moves_type) && is_whole(record);
    return are ? (Moves *)record->moves : NULL;
}

int moves_leave(LwpFields *lwp, PyObject *state)
{
    Moves *moves = moves_of(lwp);
    if (moves == NULL)
        return truth(PyObject_CallMethodObjArgs(lwp->carrying, leave_name, (PyObject *)lwp, state, NULL));
    Py_INCREF(moves);
    RecordFields *record = (RecordFields *)Py_NewRef(lwp->carrying);
    int left = do_leave(moves, record, lwp, state, Py_None);
    Py_DECREF(record);
    Py_DECREF(moves);
    return left;
}

int moves_rejoin(LwpFields *lwp)
{
    Moves *moves = moves_of(lwp);
    if (moves == NULL)
        return truth(PyObject_CallMethodOneArg(lwp->carrying, rejoin_name, (PyObject *)lwp));
    Py_INCREF(moves);
    RecordFields *record = (RecordFields *)Py_NewRef(lwp->carrying);
    int lost = do_rejoin(moves, record, lwp);
    Py_DECREF(record);
    Py_DECREF(moves);
    return lost;
}

/* A function that is bound as one in Python is, where it is an attribute of a class. */
static PyObject *method(PyObject *Py_UNUSED(module), PyObject *function)
{
    return PyInstanceMethod_New(function);
}

static PyObject *moves_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"lwp_state", "loop_state", "break_poll", "step_ended", "left_behind", "return_bound",
                            "home_bound", "clock", NULL};
    PyObject *lwp_state, *loop_state, *break_poll, *step_ended, *left_behind, *clock;
    double return_bound, home_bound;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOOddO:Moves", names, &lwp_state, &loop_state, &break_poll,
                                     &step_ended, &left_behind, &return_bound, &home_bound, &clock))
        return NULL;
    Moves *moves = (Moves *)type->tp_alloc(type, 0);
    if (moves == NULL)
        return NULL;
    moves->world = clock == Py_None ? &system_world : &explorer_world;
    moves->clock = Py_NewRef(clock);
    moves->left_behind = Py_NewRef(left_behind);
    moves->step_ended = Py_NewRef(step_ended);
    moves->break_poll = Py_NewRef(break_poll);
    moves->return_bound = return_bound;
    moves->home_bound = home_bound;
    const struct {
        PyObject **member, *kind;
        const char *name;
    } states[] = {
        {&moves->parked, lwp_state, "PARKED"},       {&moves->woken, lwp_state, "WOKEN"},
        {&moves->polling, lwp_state, "POLLING"},     {&moves->running, lwp_state, "RUNNING"},
        {&moves->marked, lwp_state, "MARKED"},       {&moves->blocked, lwp_state, "BLOCKED"},
        {&moves->returning, lwp_state, "RETURNING"}, {&moves->preempted, lwp_state, "PREEMPTED"},
        {&moves->free, loop_state, "FREE"},          {&moves->held, loop_state, "HELD"},
        {&moves->draining, loop_state, "DRAINING"},  {&moves->forked, loop_state, "FORKED"},
    };
    for (size_t i = 0; i < sizeof states / sizeof *states; i++)
        if ((*states[i].member = PyObject_GetAttrString(states[i].kind, states[i].name)) == NULL) {
            Py_DECREF(moves);
            return NULL;
        }
    return (PyObject *)moves;
}

static int moves_traverse(Moves *moves, visitproc visit, void *arg)
{
    Py_VISIT(moves->clock);
    Py_VISIT(moves->left_behind);
    Py_VISIT(moves->step_ended);
    Py_VISIT(Py_TYPE(moves));
    return 0; /* the rest are members of enums */
}

static int moves_clear(Moves *moves)
{
    Py_CLEAR(moves->clock);
    Py_CLEAR(moves->left_behind);
    return 0;
}

static void moves_dealloc(Moves *moves)
{
    PyTypeObject *type = Py_TYPE(moves);
    PyObject_GC_UnTrack(moves);
    PyObject *all[] = {moves->clock,     moves->left_behind, moves->step_ended, moves->break_poll, moves->parked,
                       moves->woken,     moves->polling,     moves->running,    moves->marked,     moves->blocked,
                       moves->returning, moves->preempted,   moves->free,       moves->held,       moves->draining,
                       moves->forked};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        Py_XDECREF(all[i]);
    type->tp_free(moves);
    Py_DECREF(type);
}

static PyMethodDef moves_methods[] = {
    {"leave", (PyCFunction)(void (*)(void))leave, METH_FASTCALL, "leave(record, lwp, state, still=None)"},
    {"rejoin", (PyCFunction)(void (*)(void))rejoin, METH_FASTCALL, "rejoin(record, lwp)"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The hot moves, on an LWP's states and a loop's, with the system's clock or the explorer's."},
    {Py_tp_new, moves_new},
    {Py_tp_dealloc, moves_dealloc},
    {Py_tp_traverse, moves_traverse},
    {Py_tp_clear, moves_clear},
    {Py_tp_methods, moves_methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.Moves",
    .basicsize = sizeof(Moves),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

static PyMethodDef functions[] = {
    {"method", method, METH_O, "A function that is bound where it is an attribute of a class."},
    {NULL, NULL, 0, NULL},
};

int moves_exec(PyObject *module)
{
    static const Name names[] = {
        {&acquire_name, "acquire"},
        {&release_name, "release"},
        {&is_owned_name, "_is_owned"},
        {&wait_for_name, "_wait_for"},
        {&append_name, "append"},
        {&appendleft_name, "appendleft"},
        {&pop_name, "pop"},
        {&when_name, "_when"},
        {&leave_name, "leave"},
        {&rejoin_name, "rejoin"},
        {&luggage_name, "luggage"},
        {&attach_name, "attach"},
        {&detach_name, "detach"},
        {&prepared_name, "prepared"},
        {&prepare_name, "prepare"},
        {&split_batch_name, "split_batch"},
        {&stay_name, "stay"},
        {&repair_name, "repair"},
        {&grant_name, "grant"},
        {&successor_name, "successor"},
        {&send_name, "send"},
        {&launched_name, "launched"},
        {&wake_name, "wake"},
        {&wait_name, "wait"},
        {&heed_name, "heed"},
        {&max_lwps_name, "max_lwps"},
        {NULL, NULL},
    };
    if (intern(names) < 0 || (with_step = Py_BuildValue("(s)", "with_step")) == NULL)
        return -1;
    moves_type = add_type(module, &spec, NULL);
    return moves_type == NULL ? -1 : PyModule_AddFunctions(module, functions);
}
