/* The middle of turns: steps are run one after the other, and turns, as long as there is nothing to look at between two.
 *
 * What is rare is left to Turns._run_batch (loop/turns.py), which calls this, and whose frame is the one that a step's
 * first frame returns to: a step that raises, one that has been without the loop (slow_exit), and a holder that has to
 * look up (due).  Whatever else Carrying.carry looks at between two turns (protocol/carrying.py) ends this as well, and
 * so does an empty queue where others could take the loop: to idle is the protocol's then.
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

/* Take a number; 0 if there is none, -1 with an exception. */
static int take_number(PyObject *batch)
{
    if (Py_IS_TYPE(batch, batch_type)) {
        Batch *ours = (Batch *)batch;
        return ours->left > 0 && ours->left-- > 0;
    }
    PyObject *number = PyIter_Next(batch);
    Py_XDECREF(number);
    return number != NULL ? 1 : PyErr_Occurred() == NULL ? 0 : -1;
}

/* Whether the batch is over; -1 with an exception. */
static int run_batch(LwpFields *lwp, RecordFields *record, PyObject *loop, Ring *ready, PyObject *batch)
{
    for (;;) {
        int taken = take_number(batch);
        if (taken <= 0)
            return taken < 0 ? -1 : 1;
        PyObject *object = ring_popleft(ready);
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
                if (ring_appendleft(ready, object) < 0)
                    PyErr_Clear();
                PyErr_SetRaisedException(raised);
            }
            Py_DECREF(object);
            if (passed < 0)
                return -1;
            continue;
        }
        Py_XSETREF(lwp->handle, object);
        if (run_step(object, handle) < 0 || loop_flush_late(loop) < 0)
            return -1;
        if (lwp->slow_exit)
            return 0;
        Py_XSETREF(lwp->handle, Py_NewRef(step_ended)); /* its finalizers may block */
        if (record->due < INFINITY && now() >= record->due)
            return 0;
    }
}

/* Whether a tool has replaced Handle._run meanwhile. */
static bool is_seen(void)
{
    PyObject *run = PyDict_GetItemWithError(handle_dict, run_name); /* borrowed */
    if (run == NULL)
        PyErr_Clear();
    return run != handle_run;
}

/* A turn has ended.  Whether there is nothing to look at before the next one. */
static bool goes_on(LwpFields *lwp, RecordFields *record, PyObject *loop, PyObject *away)
{
    return !lwp->slow_exit && !record->stopping && !record->mailed && record->summoned == Py_None &&
           record->unheld == state_free && lwp->interrupt == Py_None && is_empty(lwp->bound_steps) &&
           is_empty(away) && is_empty(record->preempted) && !loop_in_debug(loop) && !is_seen();
}

typedef struct {
    LwpFields *lwp;
    RecordFields *record;
    PyObject *resumed;
} Alone;

/* A wait has ended.  Whether its events are to be dropped: the next one finds them again. */
static int waited_alone(void *argument)
{
    Alone *alone = argument;
    RecordFields *record = alone->record;
    record->holder_ident = alone->lwp->ident;
    Py_XSETREF(alone->lwp->state, Py_NewRef(running));
    if (PyErr_Occurred() != NULL)
        return -1;
    if (record->unseen) {
        PyObject *done = PyObject_CallNoArgs(alone->resumed);
        if (done == NULL)
            return -1;
        Py_DECREF(done);
    }
    bool is_stale = record->stale; /* it was excused meanwhile */
    record->stale = false;
    return is_stale || record->summoned != Py_None; /* a signal has ended the wait: its handler comes first */
}

/* As polling._poll_alone (protocol/polling.py): nobody else could take the loop.  Returns 0 if there is something to look
 * at first; -1 with an exception. */
static int poll_alone(LwpFields *lwp, RecordFields *record, PyObject *loop, PyObject *poll, PyObject *resumed)
{
    double seconds = loop_seconds_to_timer(loop);
    if (seconds < 0.0)
        return -1;
    Alone alone = {lwp, record, resumed};
    Py_XSETREF(lwp->state, Py_NewRef(polling));
    record->holder_ident = 0;
    int dropped = poll_wait(poll, seconds, waited_alone, &alone);
    return dropped < 0 ? -1 : !dropped;
}

/* Poll, and begin the next turn's batch.  Returns 0 if there is something to look at first; -1 with an exception. */
static int begin_turn(LwpFields *lwp, RecordFields *record, PyObject *loop, Ring *ready, PyObject *poll,
                      PyObject *resumed)
{
    bool idles = ring_length(ready) == 0;
    if (idles && (record->lwps == NULL || !PySet_Check(record->lwps) || PySet_GET_SIZE(record->lwps) != 1))
        return 0;
    record->batch_unfinished = false;
    Py_XSETREF(lwp->handle, Py_NewRef(Py_None));
    int begun = idles ? poll_alone(lwp, record, loop, poll, resumed) : poll_look(poll) < 0 ? -1 : 1;
    if (begun <= 0)
        return begun;
    if (loop_move_due(loop) < 0)
        return -1;
    PyObject *batch = batch_new(ring_length(ready));
    if (batch == NULL)
        return -1;
    Py_XSETREF(record->batch, batch);
    return 1;
}

/* run_turns(lwp, record, loop, poll, resumed, away): whether the batch is over; if not, there is something to look at.
 *
 * Record.batch is run first.  With a poll that is compiled other turns may follow, as long as away is empty
 * (Conversations.away); resumed is called after a wait, if the sampler may be asleep.  What a step raises comes up, and
 * the step is LWP.handle then. */
static PyObject *run_turns(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 6 || !PyObject_TypeCheck(args[0], lwp_fields_type) ||
        !PyObject_TypeCheck(args[1], record_fields_type))
        return PyErr_Format(PyExc_TypeError, "an LWP, a record, a loop, a poll, a function and a dictionary are expected");
    LwpFields *lwp = (LwpFields *)args[0];
    RecordFields *record = (RecordFields *)args[1];
    PyObject *loop = args[2], *poll = is_poll(args[3]) ? args[3] : NULL;
    Ring *ready = loop_ready(loop);
    if (ready == NULL)
        return NULL;
    Py_INCREF(ready);
    char former = loop_begin_queue(lwp);
    int over = 1, begun = 1;
    for (int turns = 1; begun > 0; turns++) {
        if (record->batch == NULL || !(Py_IS_TYPE(record->batch, batch_type) || PyIter_Check(record->batch))) {
            PyErr_SetString(PyExc_TypeError, "Record.batch is to be an iterator");
            over = -1;
            break;
        }
        PyObject *batch = Py_NewRef(record->batch);
        over = run_batch(lwp, record, loop, ready, batch);
        Py_DECREF(batch);
        if (over <= 0 || poll == NULL || turns == MOST_TURNS)
            break;
        /* What is sent may call the program; so this is first. */
        begun = loop_flush(loop) < 0 ? -1 : goes_on(lwp, record, loop, args[5]);
        if (begun > 0)
            begun = begin_turn(lwp, record, loop, ready, poll, args[4]);
    }
    Py_DECREF(ready);
    if (loop_end_queue(loop, lwp, former) < 0 || over < 0 || begun < 0)
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
