/* The methods of a loop that make handles.  (engines/selector.py, asyncio's base_events.py)
 *
 * In debug mode, on a closed loop, and with arguments that are wrong, the same method of the Python class behind this
 * one is called: it does the same, and says what is wrong.
 */
#include "core.h"

#include <math.h>

typedef struct {
    PyObject_HEAD
    Ring *ready;
    Timers *scheduled;
    RecordFields *carrying;
    PyObject *dirty;        /* transports that have something to send; a list */
    PyObject *task_factory; /* asyncio's; None: tasks are made here */
    double dirty_since;     /* when the first of them had; minus infinity: it shall not wait */
    double looked;          /* when the last step ended after which some of them had */
    int eager;              /* how many steps more send at once what they have written */
    double resolution;      /* of the clock, in seconds */
    char debug, closed;
} LoopFields;

static const double SEND_BOUND = 0.0005; /* seconds that what a step has written may wait for the end of the batch */
static const double LONG_STEP = 0.001;    /* seconds of one behind which nothing is to wait */
enum { EAGER = 50 };                     /* steps for which that is remembered */

static PyTypeObject *loop_fields_type;
static PyObject *context_name, *time_name, *wake_name;
static PyObject *call_soon_name, *call_later_name, *call_at_name, *create_task_name;
static PyObject *tasks, *futures; /* what is in these modules of asyncio's */
static PyObject *task_name, *future_name, *loop_name, *name_name, *handler_name;
static PyObject *loop_alone; /* ("loop",) */
static PyObject *context_alone; /* the names of keywords that asyncio's tasks call call_soon with, once they are known */

/* ---------------------------------------------------------------- what they have in common */

/* Whether a context is the only keyword. */
static bool is_context_alone(PyObject *kwnames)
{
    if (PyTuple_GET_SIZE(kwnames) != 1 || PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, 0), context_name) != 0)
        return PyTuple_GET_SIZE(kwnames) == 0;
    Py_XSETREF(context_alone, Py_NewRef(kwnames)); /* it is the same one the next time, as a rule */
    return true;
}

/* Whether this can be done here: with a callback that can be called, and no keyword but a context. */
static bool is_plain(LoopFields *loop, PyObject *callback, PyObject *kwnames)
{
    if (loop->debug || loop->closed || loop->ready == NULL || loop->scheduled == NULL || loop->carrying == NULL ||
        Py_TYPE(callback)->tp_call == NULL)
        return false;
    return kwnames == NULL || kwnames == context_alone || is_context_alone(kwnames);
}

static PyObject *context_in(PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    return kwnames != NULL && PyTuple_GET_SIZE(kwnames) > 0 ? args[count] : NULL;
}

/* A signal handler's, or a step's that is without the loop: whoever polls has to look. */
static int wake_if_elsewhere(LoopFields *loop)
{
    RecordFields *record = loop->carrying;
    if (!record->is_running || record->holder_ident == PyThread_get_thread_ident())
        return 0;
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)loop, wake_name);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The loop's clock, which a program may have replaced; -1 with an exception. */
static double clock_of(LoopFields *loop)
{
    PyObject *time = PyObject_CallMethodNoArgs((PyObject *)loop, time_name);
    double seconds = time == NULL ? -1.0 : PyFloat_AsDouble(time);
    Py_XDECREF(time);
    return seconds;
}

/* ---------------------------------------------------------------- the methods */

static PyObject *call_soon(LoopFields *loop, PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    if (count < 1 || !is_plain(loop, args[0], kwnames))
        return call_super(loop_fields_type, (PyObject *)loop, call_soon_name, args, count, kwnames);
    PyObject *context = context_in(args, count, kwnames);
    PyObject *step = step_new(args[0], args + 1, count - 1, (PyObject *)loop, context);
    if (step != NULL && (ring_append(loop->ready, step) < 0 || wake_if_elsewhere(loop) < 0))
        Py_CLEAR(step);
    return step;
}

static PyObject *schedule(LoopFields *loop, double when, PyObject *const *args, Py_ssize_t count, PyObject *context)
{
    PyObject *timer = timer_new(when, args[0], args + 1, count - 1, (PyObject *)loop, context);
    if (timer != NULL && timers_push(loop->scheduled, timer) < 0)
        Py_CLEAR(timer);
    return timer;
}

/* A number that needs no method of its own to be one. */
static bool is_number(PyObject *object)
{
    return PyFloat_CheckExact(object) || PyLong_CheckExact(object);
}

static PyObject *call_at(LoopFields *loop, PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    if (count < 2 || !is_number(args[0]) || !is_plain(loop, args[1], kwnames))
        return call_super(loop_fields_type, (PyObject *)loop, call_at_name, args, count, kwnames);
    double when = PyFloat_AsDouble(args[0]);
    if (when == -1.0 && PyErr_Occurred() != NULL)
        return NULL;
    PyObject *timer = schedule(loop, when, args + 1, count - 1, context_in(args, count, kwnames));
    if (timer != NULL)
        timer_of(timer)->is_int = PyLong_CheckExact(args[0]);
    return timer;
}

static PyObject *call_later(LoopFields *loop, PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    if (count < 2 || !is_number(args[0]) || !is_plain(loop, args[1], kwnames))
        return call_super(loop_fields_type, (PyObject *)loop, call_later_name, args, count, kwnames);
    double delay = PyFloat_AsDouble(args[0]);
    if (delay == -1.0 && PyErr_Occurred() != NULL)
        return NULL;
    double time = clock_of(loop);
    if (time == -1.0 && PyErr_Occurred() != NULL)
        return NULL;
    return schedule(loop, time + delay, args + 1, count - 1, context_in(args, count, kwnames));
}

static PyObject *loop_time(LoopFields *Py_UNUSED(loop), PyObject *Py_UNUSED(none))
{
    return PyFloat_FromDouble(now());
}

int loop_move_due(PyObject *object)
{
    LoopFields *loop = (LoopFields *)object;
    if (timers_first(loop->scheduled) == INFINITY)
        return 0;
    double time = clock_of(loop);
    if (time == -1.0 && PyErr_Occurred() != NULL)
        return -1;
    return timers_move_due(loop->scheduled, time + loop->resolution, loop->ready);
}

double loop_seconds_to_timer(PyObject *object)
{
    LoopFields *loop = (LoopFields *)object;
    double first = timers_first(loop->scheduled);
    if (first == INFINITY)
        return INFINITY;
    double time = clock_of(loop);
    if (time == -1.0 && PyErr_Occurred() != NULL)
        return -1.0;
    return first > time ? first - time : 0.0;
}

/* ---------------------------------------------------------------- tasks */

/* Whether the keywords are those that asyncio.Task has in every version. */
static bool are_of_task(PyObject *kwnames)
{
    for (Py_ssize_t i = 0; kwnames != NULL && i < PyTuple_GET_SIZE(kwnames); i++)
        if (PyTuple_GET_ITEM(kwnames, i) != name_name && PyTuple_GET_ITEM(kwnames, i) != context_name)
            return false;
    return true;
}

/* The names of the keywords, and "loop". */
static PyObject *with_loop(PyObject *kwnames)
{
    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    PyObject *names = PyTuple_New(count + 1);
    for (Py_ssize_t i = 0; names != NULL && i < count; i++)
        PyTuple_SET_ITEM(names, i, Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
    if (names != NULL)
        PyTuple_SET_ITEM(names, count, Py_NewRef(loop_name));
    return names;
}

/* As asyncio's.  Which class it is may change: tools put another one into asyncio.tasks. */
static PyObject *create_task(LoopFields *loop, PyObject *const *args, Py_ssize_t count, PyObject *kwnames)
{
    enum { MOST = 4 }; /* the coroutine, name, context, loop */
    Py_ssize_t all = count + (kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames));
    if (count != 1 || all >= MOST || loop->debug || loop->closed || loop->task_factory != Py_None ||
        !are_of_task(kwnames))
        return call_super(loop_fields_type, (PyObject *)loop, create_task_name, args, count, kwnames);
    PyObject *type = Py_XNewRef(PyDict_GetItemWithError(tasks, task_name));
    PyObject *names = type == NULL ? NULL : with_loop(kwnames), *task = NULL, *given[MOST];
    if (names != NULL) {
        for (Py_ssize_t i = 0; i < all; i++)
            given[i] = args[i];
        given[all] = (PyObject *)loop;
        task = PyObject_Vectorcall(type, given, (size_t)count, names);
    }
    if (type == NULL && PyErr_Occurred() == NULL)
        PyErr_SetString(PyExc_AttributeError, "asyncio.tasks.Task");
    Py_XDECREF(names);
    Py_XDECREF(type);
    return task;
}

static PyObject *create_future(LoopFields *loop, PyObject *Py_UNUSED(none))
{
    PyObject *type = Py_XNewRef(PyDict_GetItemWithError(futures, future_name)), *future = NULL;
    if (type != NULL)
        future = PyObject_Vectorcall(type, (PyObject *[]){(PyObject *)loop}, 0, loop_alone);
    else if (PyErr_Occurred() == NULL)
        PyErr_SetString(PyExc_AttributeError, "asyncio.futures.Future");
    Py_XDECREF(type);
    return future;
}

/* Each future asks for it. */
static PyObject *get_debug_mode(LoopFields *loop, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(loop->debug);
}

/* ---------------------------------------------------------------- what is to be sent */

/* Whether the calling thread holds the loop. */
static bool is_held_here(LoopFields *loop)
{
    RecordFields *record = loop->carrying;
    return record != NULL && record->is_running && record->holder_ident == PyThread_get_thread_ident();
}

int loop_queue(PyObject *object, PyObject *transport, bool soon)
{
    if (object == NULL || !PyObject_TypeCheck(object, loop_fields_type))
        return 0;
    LoopFields *loop = (LoopFields *)object;
    if (!is_held_here(loop))
        return 0;
    PyObject *holder = loop->carrying->holder;
    if (holder == NULL || !PyObject_TypeCheck(holder, lwp_fields_type) || !((LwpFields *)holder)->in_turns)
        return 0;
    if (soon)
        loop->dirty_since = -INFINITY;
    else if (PyList_GET_SIZE(loop->dirty) == 0)
        loop->dirty_since = loop->looked = now();
    return transport == NULL ? 1 : PyList_Append(loop->dirty, transport) < 0 ? -1 : 1;
}

char loop_begin_queue(LwpFields *lwp)
{
    char former = lwp->in_turns;
    lwp->in_turns = true;
    return former;
}

/* Whoever has lost the loop in a step has had its queue sent by then; what the socket did not take is the holder's. */
int loop_end_queue(PyObject *object, LwpFields *lwp, char former)
{
    PyObject *raised = PyErr_GetRaisedException();
    int done = is_held_here((LoopFields *)object) ? loop_flush(object) : 0;
    lwp->in_turns = former;
    if (raised != NULL) {
        raise_again(raised); /* another one ends the run, whatever the first would have done */
        return -1;
    }
    return done;
}

Ring *loop_ready(PyObject *object)
{
    if (PyObject_TypeCheck(object, loop_fields_type) && ((LoopFields *)object)->ready != NULL)
        return ((LoopFields *)object)->ready;
    PyErr_Format(PyExc_TypeError, "a loop of the native engine is expected, not %.100s", Py_TYPE(object)->tp_name);
    return NULL;
}

bool loop_in_debug(PyObject *object)
{
    return ((LoopFields *)object)->debug;
}

/* Nobody has called write() any more: what could not be done is told to the loop's exception handler. */
static int report(PyObject *loop, PyObject *transport)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyObject *exception = PyErr_GetRaisedException();
    PyObject *context = Py_BuildValue("{sssOsO}", "message", "what was written could not be sent", "exception",
                                      exception, "transport", transport);
    PyObject *done = context == NULL ? NULL : PyObject_CallMethodOneArg(loop, handler_name, context);
    Py_XDECREF(done);
    Py_XDECREF(context);
    Py_DECREF(exception);
    return done == NULL ? -1 : 0;
}

int loop_flush(PyObject *object)
{
    PyObject *dirty = ((LoopFields *)object)->dirty;
    while (PyList_GET_SIZE(dirty) > 0) { /* one that is flushed may write to another; after an error the others stay */
        PyObject *transport = Py_NewRef(PyList_GET_ITEM(dirty, 0));
        int done = PyList_SetSlice(dirty, 0, 1, NULL) < 0 ? -1 : stream_flush(transport);
        if (done < 0)
            done = report(object, transport);
        Py_DECREF(transport);
        if (done < 0)
            return -1;
    }
    return 0;
}

/* What a step has written waits for the end of the batch, if the steps are short: one answer after the other costs more
 * than several at once.  Behind a long one it would come late, so then the next steps send theirs at once. */
int loop_flush_late(PyObject *object)
{
    LoopFields *loop = (LoopFields *)object;
    if (PyList_GET_SIZE(loop->dirty) == 0 || !is_held_here(loop)) /* a step may end without the loop */
        return 0;
    if (loop->eager > 0)
        loop->eager--;
    else {
        double time = now(), lasted = time - loop->looked;
        loop->looked = time;
        if (lasted >= LONG_STEP)
            loop->eager = EAGER;
        else if (time - loop->dirty_since < SEND_BOUND)
            return 0;
    }
    return loop_flush(object);
}

static PyObject *flush(LoopFields *loop, PyObject *Py_UNUSED(none))
{
    if (loop_flush((PyObject *)loop) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* In the middle of a step that is about to be without the loop, by whatever thread.  Nothing of the program is called. */
static PyObject *send_queued(LoopFields *loop, PyObject *Py_UNUSED(none))
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(loop->dirty); i++)
        stream_flush_quietly(PyList_GET_ITEM(loop->dirty, i));
    Py_RETURN_NONE;
}

/* In a forked child: the parent sends it. */
static PyObject *forget_queued(LoopFields *loop, PyObject *Py_UNUSED(none))
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(loop->dirty); i++)
        stream_forget(PyList_GET_ITEM(loop->dirty, i));
    if (PyList_SetSlice(loop->dirty, 0, PyList_GET_SIZE(loop->dirty), NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---------------------------------------------------------------- the type */

static PyObject *loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    LoopFields *loop = (LoopFields *)type->tp_alloc(type, 0);
    if (loop == NULL)
        return NULL;
    loop->closed = true; /* until there is something to close: asyncio's finalizer asks */
    if ((loop->dirty = PyList_New(0)) == NULL)
        Py_CLEAR(loop);
    return (PyObject *)loop;
}

static int loop_traverse(LoopFields *loop, visitproc visit, void *arg)
{
    Py_VISIT(loop->ready);
    Py_VISIT(loop->scheduled);
    Py_VISIT(loop->carrying);
    Py_VISIT(loop->dirty);
    Py_VISIT(loop->task_factory);
    Py_VISIT(Py_TYPE(loop));
    return 0;
}

static int loop_clear(LoopFields *loop)
{
    Py_CLEAR(loop->ready);
    Py_CLEAR(loop->scheduled);
    Py_CLEAR(loop->carrying);
    Py_CLEAR(loop->task_factory);
    return loop->dirty == NULL ? 0 : PyList_SetSlice(loop->dirty, 0, PyList_GET_SIZE(loop->dirty), NULL);
}

static void loop_dealloc(LoopFields *loop)
{
    PyTypeObject *type = Py_TYPE(loop);
    PyObject_GC_UnTrack(loop);
    loop_clear(loop);
    Py_CLEAR(loop->dirty);
    type->tp_free(loop);
    Py_DECREF(type);
}

/* What a typed field holds; anything else would be read as what it is not.  For the empty queue and the empty heap that
 * asyncio's __init__ assigns, an empty one of ours is made. */
static int set_typed(PyObject **field, PyObject *value, PyTypeObject *type)
{
    if (value == NULL) {
        PyErr_Format(PyExc_AttributeError, "a %.100s cannot be deleted", type->tp_name);
        return -1;
    }
    if (!PyObject_TypeCheck(value, type)) {
        if (!PySequence_Check(value) || PySequence_Size(value) != 0 || type == record_fields_type) {
            PyErr_Format(PyExc_TypeError, "%.100s is expected, not %.100s", type->tp_name, Py_TYPE(value)->tp_name);
            return -1;
        }
        if ((value = PyObject_CallNoArgs((PyObject *)type)) == NULL)
            return -1;
    } else
        Py_INCREF(value);
    Py_XSETREF(*field, value);
    return 0;
}

static PyObject *get_object(PyObject *object, const char *name)
{
    return object == NULL ? PyErr_Format(PyExc_AttributeError, "%s", name) : Py_NewRef(object);
}

static PyObject *get_ready(LoopFields *loop, void *Py_UNUSED(closure))
{
    return get_object((PyObject *)loop->ready, "_ready");
}

static PyObject *get_scheduled(LoopFields *loop, void *Py_UNUSED(closure))
{
    return get_object((PyObject *)loop->scheduled, "_scheduled");
}

static PyObject *get_carrying(LoopFields *loop, void *Py_UNUSED(closure))
{
    return get_object((PyObject *)loop->carrying, "_carrying");
}

static int set_ready(LoopFields *loop, PyObject *value, void *Py_UNUSED(closure))
{
    return set_typed((PyObject **)&loop->ready, value, ring_type);
}

static int set_scheduled(LoopFields *loop, PyObject *value, void *Py_UNUSED(closure))
{
    return set_typed((PyObject **)&loop->scheduled, value, timers_type);
}

static int set_carrying(LoopFields *loop, PyObject *value, void *Py_UNUSED(closure))
{
    return set_typed((PyObject **)&loop->carrying, value, record_fields_type);
}

static PyObject *get_debug(LoopFields *loop, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(loop->debug);
}

static int set_debug(LoopFields *loop, PyObject *value, void *Py_UNUSED(closure))
{
    int debug = value == NULL ? 0 : PyObject_IsTrue(value);
    if (debug < 0)
        return -1;
    loop->debug = (char)debug;
    return 0;
}

static PyGetSetDef getset[] = {
    {"_debug", (getter)get_debug, (setter)set_debug, NULL, NULL},
    {"_ready", (getter)get_ready, (setter)set_ready, NULL, NULL},
    {"_scheduled", (getter)get_scheduled, (setter)set_scheduled, NULL, NULL},
    {"_carrying", (getter)get_carrying, (setter)set_carrying, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef members[] = {
    {"_task_factory", Py_T_OBJECT_EX, offsetof(LoopFields, task_factory), 0, NULL},
    {"_clock_resolution", Py_T_DOUBLE, offsetof(LoopFields, resolution), 0, NULL},
    {"_closed", Py_T_BOOL, offsetof(LoopFields, closed), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define FAST(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL | METH_KEYWORDS
static PyMethodDef methods[] = {
    {"call_soon", FAST(call_soon), "Arrange for a callback to be called in the next turn."},
    {"call_later", FAST(call_later), "Arrange for a callback to be called after a number of seconds."},
    {"call_at", FAST(call_at), "Arrange for a callback to be called at a time of the loop's clock."},
    {"create_task", FAST(create_task), "Schedule a coroutine to run in a task of its own."},
    {"create_future", (PyCFunction)create_future, METH_NOARGS, "Make a future of the loop."},
    {"get_debug", (PyCFunction)get_debug_mode, METH_NOARGS, "Whether the loop is in debug mode."},
    {"_flush", (PyCFunction)flush, METH_NOARGS, "Send what steps have written."},
    {"_forget_queued", (PyCFunction)forget_queued, METH_NOARGS, "Do not send what steps have written."},
    {"_send_queued", (PyCFunction)send_queued, METH_NOARGS, "Send what the socket takes, and call nobody."},
    {"time", (PyCFunction)loop_time, METH_NOARGS, "The time of the loop's clock, in seconds."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Fields and methods of a loop."},
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_getset, getset},
    {Py_tp_members, members},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.LoopFields",
    .basicsize = sizeof(LoopFields),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};

/* What is in a module, as it may be replaced there. */
static PyObject *content_of(const char *name)
{
    PyObject *module = PyImport_ImportModule(name), *content = NULL;
    if (module != NULL)
        content = Py_NewRef(PyModule_GetDict(module));
    Py_XDECREF(module);
    return content;
}

int loop_exec(PyObject *module)
{
    static const Name names[] = {
        {&context_name, "context"},
        {&time_name, "time"},
        {&wake_name, "_write_to_self"},
        {&call_soon_name, "call_soon"},
        {&call_later_name, "call_later"},
        {&call_at_name, "call_at"},
        {&create_task_name, "create_task"},
        {&task_name, "Task"},
        {&future_name, "Future"},
        {&handler_name, "call_exception_handler"},
        {&loop_name, "loop"},
        {&name_name, "name"},
        {NULL, NULL},
    };
    if (intern(names) < 0 || (tasks = content_of("asyncio.tasks")) == NULL ||
        (futures = content_of("asyncio.futures")) == NULL || (loop_alone = PyTuple_Pack(1, loop_name)) == NULL)
        return -1;
    loop_fields_type = add_type(module, &spec, NULL);
    return loop_fields_type == NULL ? -1 : 0;
}
