/* The middle of turns: steps are run one after the other, and turns, as long as there is nothing to look at between two.
 *
 * What is rare is left to Turns._run_batch (loop/turns.py), which calls this, and whose frame is the one that a step's
 * first frame returns to: a step that raises, one whose end has to be looked at (slow_exit), unless it has just been without
 * the loop, and a holder that has to look up (due).  Whatever else Carrying.carry looks at between two turns
 * (protocol/carrying.py) ends this as well, and so do an empty queue and a poll without events where others could take the
 * loop: to idle is the protocol's then.
 */
#include "core.h"

#include <math.h>

enum { MOST_TURNS = 64 }; /* then the interpreter has its turn: signals, the collector, other threads */

static PyObject *idle, *taken_out; /* FdState.IDLE, FdState.TAKEN_OUT */
static PyObject *step_ended;       /* protocol/lwp.STEP_ENDED */
static PyObject *state_free;       /* LoopState.FREE */
static PyObject *polling, *running; /* LwpState.POLLING, LwpState.RUNNING */
static PyObject *plain_handle;     /* asyncio.Handle */
static PyObject *handle_dict;      /* what is in that class */
static PyObject *handle_run;       /* its _run, as it was; a tool may replace it, by which it sees all callbacks */
static PyObject *run_name, *put_back_name, *cancelled_name, *context_name, *callback_name, *args_name;

/* Call a callback in a context.  Returns its result. */
static PyObject *call(PyObject *context, PyObject *callback, PyObject *args)
{
    if (!PyTuple_CheckExact(args))
        return PyErr_Format(PyExc_TypeError, "a handle's _args are a tuple, not %.100s", Py_TYPE(args)->tp_name);
    if (PyContext_Enter(context) < 0)
        return NULL;
    PyObject *result = PyObject_Call(callback, args, NULL); /* asyncio's steps of tasks take a tuple */
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(result);
    return result;
}

/* Called in the same way as ours, so that no frame of asyncio's is the innermost one of a callback in C. */
static PyObject *call_plain(PyObject *handle)
{
    PyObject *context = PyObject_GetAttr(handle, context_name), *callback = NULL, *args = NULL, *result = NULL;
    if (context != NULL && (callback = PyObject_GetAttr(handle, callback_name)) != NULL &&
        (args = PyObject_GetAttr(handle, args_name)) != NULL)
        result = call(context, callback, args);
    Py_XDECREF(args);
    Py_XDECREF(callback);
    Py_XDECREF(context);
    return result;
}

/* The handle may be cancelled meanwhile, which drops what it calls: that is kept. */
static PyObject *call_ours(PyObject *object, Handle *handle)
{
    if (handle->context == NULL || handle->callback == NULL || handle->args == NULL)
        return call_plain(object); /* it was made half: that says so */
    PyObject *context = Py_NewRef(handle->context), *callback = Py_NewRef(handle->callback);
    PyObject *args = Py_NewRef(handle->args);
    PyObject *result = call(context, callback, args);
    Py_DECREF(args);
    Py_DECREF(callback);
    Py_DECREF(context);
    return result;
}

/* It has its turn: now it is to be called again if its descriptor is ready. */
static int begin_of_fd(PyObject *handle, FdFields *fields)
{
    if (fields->state == taken_out &&
        drop(PyObject_CallMethodOneArg(fields->handle.loop, put_back_name, handle)) < 0)
        return -1;
    Py_XSETREF(fields->state, Py_NewRef(idle));
    return 0;
}

/* handle: what handle_of says of the object. */
static int run_step(PyObject *object, Handle *handle)
{
    PyObject *result;
    if (handle != NULL) {
        FdFields *fields = fd_fields_of(object);
        if (fields != NULL && begin_of_fd(object, fields) < 0)
            return -1;
        result = call_ours(object, handle);
    } else if (Py_TYPE(object) == (PyTypeObject *)plain_handle)
        result = call_plain(object);
    else
        result = PyObject_CallMethodNoArgs(object, run_name);
    return drop(result);
}

static int is_cancelled(PyObject *object, Handle *handle)
{
    if (handle != NULL)
        return handle->cancelled;
    return truth(PyObject_GetAttr(object, cancelled_name));
}

static bool is_empty(PyObject *collection)
{
    if (collection != NULL && PyAnySet_Check(collection))
        return PySet_GET_SIZE(collection) == 0;
    Py_ssize_t size = collection == NULL ? -1 : PyObject_Size(collection);
    if (size < 0)
        PyErr_Clear();
    return size == 0;
}

/* Whether a step is to be run in a context that is entered: by one that is without the loop, on its own thread. */
static int is_entered(PyObject *object, Handle *handle)
{
    PyObject *context = handle != NULL ? Py_XNewRef(handle->context) : PyObject_GetAttr(object, context_name);
    if (context == NULL)
        return handle != NULL ? 0 : -1; /* it was made half: its call says so */
    int entered = PyContext_Enter(context) < 0;
    if (entered && PyErr_ExceptionMatches(PyExc_RuntimeError))
        PyErr_Clear();
    else
        entered = entered || PyContext_Exit(context) < 0 ? -1 : 0;
    Py_DECREF(context);
    return entered;
}

/* A step that waits for one that is without the loop is deferred.  Returns whether it is; -1 with an exception. */
static int defer(RecordFields *record, PyObject *object, Handle *handle)
{
    if (is_empty(record->detached))
        return 0;
    int entered = is_entered(object, handle);
    if (entered <= 0)
        return entered;
    if (record->deferred == NULL || !PyList_Check(record->deferred))
        return (PyErr_SetString(PyExc_TypeError, "Record.deferred is to be a list"), -1);
    return PyList_Append(record->deferred, object) < 0 ? -1 : 1;
}

/* Take a number of the batch, which is another one after a step that has been without the loop.  Returns 0 if there is none;
 * -1 with an exception. */
static int take_number(RecordFields *record)
{
    PyObject *batch = record->batch;
    if (batch != NULL && Py_IS_TYPE(batch, batch_type)) {
        Batch *ours = (Batch *)batch;
        return ours->left > 0 && ours->left-- > 0;
    }
    if (batch == NULL || !PyIter_Check(batch))
        return (PyErr_SetString(PyExc_TypeError, "Record.batch is to be an iterator"), -1);
    Py_INCREF(batch);
    PyObject *number = PyIter_Next(batch);
    Py_DECREF(batch);
    Py_XDECREF(number);
    return number != NULL ? 1 : PyErr_Occurred() == NULL ? 0 : -1;
}

/* Whether a tool has replaced Handle._run meanwhile. */
static bool is_seen(void)
{
    PyObject *run = PyDict_GetItemWithError(handle_dict, run_name); /* borrowed */
    if (run == NULL)
        PyErr_Clear();
    return run != handle_run;
}

/* The run of turns that is under way.  All references are borrowed of the caller, but that to ready. */
typedef struct {
    LwpFields *lwp;
    RecordFields *record;
    PyObject *loop;
    PyObject *poll; /* NULL: one that is not compiled, or must not be used: there is one turn */
    FollowingFields *following;
    PyObject *affinity;
    Ring *ready; /* ours */
} Turns;

/* Whether there is nothing to look at before another batch. */
static bool goes_on(const Turns *turns)
{
    LwpFields *lwp = turns->lwp;
    RecordFields *record = turns->record;
    return !record->stopping && !record->mailed && record->summoned == Py_None &&
           record->unheld == state_free && lwp->interrupt == Py_None && is_empty(lwp->bound_steps) &&
           is_empty(turns->following->away) && is_empty(record->preempted) && !loop_in_debug(turns->loop) && !is_seen();
}

/* The step has been without the loop, maybe, and its end has to be looked at.  Returns 1 if that is done, and what is left of
 * the batch, which may be another one by now, can be run; -1 with an exception. */
static int look_after(Turns *turns)
{
    if (turns->poll == NULL || !goes_on(turns))
        return 0;
    int done = after_step(turns->lwp, turns->record, turns->following, turns->affinity, step_ended);
    return done > 0 ? !turns->lwp->slow_exit : done; /* a finalizer has blocked */
}

/* Whether the batch is over; -1 with an exception. */
static int run_batch(Turns *turns)
{
    LwpFields *lwp = turns->lwp;
    RecordFields *record = turns->record;
    for (;;) {
        int taken = take_number(record);
        if (taken <= 0)
            return taken < 0 ? -1 : 1;
        PyObject *object = ring_popleft(turns->ready);
        if (object == NULL) {
            PyErr_SetString(PyExc_IndexError, "a step of the batch is missing");
            return -1;
        }
        Handle *handle = handle_of(object);
        int passed = is_cancelled(object, handle);
        if (passed == 0)
            passed = defer(record, object, handle);
        if (passed != 0) {
            if (passed < 0) { /* it has not begun, and is next once more */
                PyObject *raised = PyErr_GetRaisedException();
                if (ring_appendleft(turns->ready, object) < 0)
                    PyErr_Clear();
                PyErr_SetRaisedException(raised);
            }
            Py_DECREF(object);
            if (passed < 0)
                return -1;
            continue;
        }
        Py_XSETREF(lwp->handle, object);
        if (run_step(object, handle) < 0 || loop_flush_late(turns->loop) < 0)
            return -1;
        if (lwp->slow_exit) {
            int done = look_after(turns);
            if (done <= 0)
                return done;
        } else
            Py_XSETREF(lwp->handle, Py_NewRef(step_ended)); /* its finalizers may block */
        if (record->due < INFINITY && now() >= record->due)
            return 0;
    }
}

/* A wait has ended.  Whether its events are to be dropped: the next one finds them again. */
static int waited_alone(void *argument)
{
    Turns *turns = argument;
    RecordFields *record = turns->record;
    record->holder_ident = turns->lwp->ident;
    Py_XSETREF(turns->lwp->state, Py_NewRef(running));
    if (PyErr_Occurred() != NULL)
        return -1;
    if (record->unseen && drop(PyObject_CallNoArgs(turns->following->look)) < 0)
        return -1;
    bool is_stale = record->stale; /* it was excused meanwhile */
    record->stale = false;
    return is_stale || record->summoned != Py_None; /* a signal has ended the wait: its handler comes first */
}

/* As polling._poll_alone (protocol/polling.py): nobody else could take the loop.  Returns 0 if there is something to look
 * at first; -1 with an exception. */
static int poll_alone(Turns *turns)
{
    double seconds = loop_seconds_to_timer(turns->loop);
    if (seconds < 0.0)
        return -1;
    Py_XSETREF(turns->lwp->state, Py_NewRef(polling));
    turns->record->holder_ident = 0;
    int dropped = poll_wait(turns->poll, seconds, waited_alone, turns);
    return dropped < 0 ? -1 : !dropped;
}

/* Poll, and begin the next turn's batch.  Returns 0 if there is something to look at first, or nothing to run where others
 * could take the loop; -1 with an exception. */
static int begin_turn(Turns *turns)
{
    LwpFields *lwp = turns->lwp;
    RecordFields *record = turns->record;
    if (record->lwps == NULL || !PySet_Check(record->lwps))
        return 0;
    bool waits = ring_length(turns->ready) == 0 && PySet_GET_SIZE(record->lwps) == 1;
    record->batch_unfinished = false;
    Py_XSETREF(lwp->handle, Py_NewRef(Py_None));
    int begun = waits ? poll_alone(turns) : poll_look(turns->poll) < 0 ? -1 : 1;
    if (begun <= 0)
        return begun;
    if (loop_move_due(turns->loop) < 0)
        return -1;
    size_t count = ring_length(turns->ready);
    if (count == 0 && !waits)
        return 0;
    PyObject *batch = batch_new(count);
    if (batch == NULL)
        return -1;
    Py_XSETREF(record->batch, batch);
    return 1;
}

/* Whether the batch is over; -1 with an exception. */
static int run(Turns *turns)
{
    for (int count = 1;; count++) {
        int over = run_batch(turns);
        if (over <= 0 || turns->poll == NULL || count == MOST_TURNS)
            return over;
        /* What is sent may call the program; so this is first. */
        if (loop_flush(turns->loop) < 0)
            return -1;
        if (turns->lwp->slow_exit || !goes_on(turns))
            return 1;
        int begun = begin_turn(turns);
        if (begun <= 0)
            return begun < 0 ? -1 : 1;
    }
}

/* run_turns(lwp, record, loop, poll, following, affinity): whether the batch is over; if not, there is something to look at.
 *
 * Record.batch is run first.  With a poll that is compiled other turns may follow, as long as no conversation has a step
 * that is without the loop.  What a step raises comes up, and the step is LWP.handle then. */
static PyObject *run_turns(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 6 || !PyObject_TypeCheck(args[0], lwp_fields_type) ||
        !PyObject_TypeCheck(args[1], record_fields_type) || !PyObject_TypeCheck(args[4], following_fields_type) ||
        ((FollowingFields *)args[4])->look == NULL)
        return PyErr_Format(PyExc_TypeError, "an LWP, a record, a loop, a poll, and two of its parts are expected");
    Turns turns = {
        .lwp = (LwpFields *)args[0],
        .record = (RecordFields *)args[1],
        .loop = args[2],
        .poll = is_poll(args[3]) ? args[3] : NULL,
        .following = (FollowingFields *)args[4],
        .affinity = args[5],
        .ready = loop_ready(args[2]),
    };
    if (turns.ready == NULL)
        return NULL;
    Py_INCREF(turns.ready);
    char former = loop_begin_queue(turns.lwp);
    int over = run(&turns);
    Py_DECREF(turns.ready);
    if (loop_end_queue(turns.loop, turns.lwp, former) < 0 || over < 0)
        return NULL;
    return PyBool_FromLong(over);
}

/* know(idle, taken_out, step_ended, free, polling, running, plain_handle, handle_run): what this needs of the Python code
 * beside it. */
static PyObject *know(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject **const slots[] = {&idle, &taken_out, &step_ended, &state_free,
                                &polling, &running, &plain_handle, &handle_run};
    enum { COUNT = sizeof slots / sizeof *slots };
    PyObject *known[COUNT];
    if (!PyArg_ParseTuple(args, "OOOOOOO!O:know", &known[0], &known[1], &known[2], &known[3], &known[4], &known[5],
                          &PyType_Type, &known[6], &known[7]))
        return NULL;
    for (int i = 0; i < COUNT; i++)
        Py_XSETREF(*slots[i], Py_NewRef(known[i]));
    Py_XSETREF(handle_dict, PyType_GetDict((PyTypeObject *)plain_handle));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"run_turns", (PyCFunction)(void (*)(void))run_turns, METH_FASTCALL,
     "Run steps, turn after turn, until there is something to look at."},
    {"know", know, METH_VARARGS, "Make objects of the Python code known."},
    {NULL, NULL, 0, NULL},
};

int turns_exec(PyObject *module)
{
    static const Name names[] = {
        {&run_name, "_run"},
        {&put_back_name, "_put_back"},
        {&cancelled_name, "_cancelled"},
        {&context_name, "_context"},
        {&callback_name, "_callback"},
        {&args_name, "_args"},
        {NULL, NULL},
    };
    if (intern(names) < 0)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
