/* The poll: one wait for events, and what becomes of them.  (engines/epoll.py)
 *
 * An LWP that waits may lose the loop meanwhile, and drops what it has found.  So what a wait finds is an object of its
 * own, and nothing is changed before it is handled.
 *
 * A wait for no time at all keeps the GIL: the system call takes less time than to give it away.
 */
#include "core.h"

#ifdef __linux__

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/epoll.h>

enum { MOST_EVENTS = 512 };

typedef struct {
    PyObject_VAR_HEAD
    struct epoll_event events[];
} Found;

typedef struct {
    PyObject_HEAD
    int epoll; /* the selector's */
    Ring *ready;
    PyObject *readers, *writers; /* the engine's tables: number -> FdHandle */
    PyObject *found_again;       /* what to call with a handle that is on its way already */
    PyObject *idle, *busy;       /* FdState */
} Poll;

static PyTypeObject *found_type, *poll_type;

/* ---------------------------------------------------------------- waiting */

static void found_dealloc(PyObject *found)
{
    PyTypeObject *type = Py_TYPE(found);
    type->tp_free(found);
    Py_DECREF(type);
}

static Py_ssize_t found_length(PyObject *found)
{
    return Py_SIZE(found);
}

/* In milliseconds, rounded up: epoll would wake too early. */
static int milliseconds(double seconds)
{
    double rounded = ceil(seconds * 1e3);
    return !(rounded > 0.0) ? 0 : rounded >= INT_MAX ? (seconds == INFINITY ? -1 : INT_MAX) : (int)rounded;
}

/* How many events were found; -1 with an exception. */
static int wait_for(int epoll, struct epoll_event *events, double seconds)
{
    int most = milliseconds(seconds), count;
    if (most == 0)
        count = epoll_wait(epoll, events, MOST_EVENTS, 0);
    else {
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(epoll, events, MOST_EVENTS, most);
        Py_END_ALLOW_THREADS
    }
    if (count < 0 && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    /* Here, and not in the first step, where what a handler raises would be the step's. */
    if (most != 0 && PyErr_CheckSignals() < 0)
        return -1;
    return count < 0 ? 0 : count;
}

/* wait(timeout): what was found; None for nothing. */
static PyObject *wait(Poll *poll, PyObject *timeout)
{
    double seconds = timeout == Py_None ? INFINITY : PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred() != NULL)
        return NULL;
    struct epoll_event events[MOST_EVENTS];
    int count = wait_for(poll->epoll, events, seconds);
    if (count < 0)
        return NULL;
    if (count == 0)
        Py_RETURN_NONE;
    Found *found = (Found *)found_type->tp_alloc(found_type, count);
    if (found != NULL)
        memcpy(found->events, events, (size_t)count * sizeof *events);
    return (PyObject *)found;
}

/* ---------------------------------------------------------------- handling */

/* A descriptor is ready that a table may have a handle for. */
static int dispatch_to(Poll *poll, PyObject *table, int number)
{
    PyObject *key = PyLong_FromLong(number);
    if (key == NULL)
        return -1;
    PyObject *handle = Py_XNewRef(PyDict_GetItemWithError(table, key));
    Py_DECREF(key);
    if (handle == NULL)
        return PyErr_Occurred() == NULL ? 0 : -1;
    int done = 0;
    FdFields *fields = fd_fields_of(handle);
    if (fields != NULL && fields->state == poll->idle) {
        Py_SETREF(fields->state, Py_NewRef(poll->busy));
        done = ring_append(poll->ready, handle);
    } else {
        PyObject *result = PyObject_CallOneArg(poll->found_again, handle);
        done = result == NULL ? -1 : 0;
        Py_XDECREF(result);
    }
    Py_DECREF(handle);
    return done;
}

/* As asyncio's _process_events, but for what is on its way already. */
static int dispatch_all(Poll *poll, const struct epoll_event *events, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        struct epoll_event event = events[i];
        if (event.events & ~(uint32_t)EPOLLOUT && dispatch_to(poll, poll->readers, event.data.fd) < 0)
            return -1;
        if (event.events & ~(uint32_t)EPOLLIN && dispatch_to(poll, poll->writers, event.data.fd) < 0)
            return -1;
    }
    return 0;
}

/* dispatch(found): make ready what the events belong to. */
static PyObject *dispatch(Poll *poll, PyObject *found)
{
    if (!Py_IS_TYPE(found, found_type))
        return PyErr_Format(PyExc_TypeError, "what a wait has found is expected, not %.100s", Py_TYPE(found)->tp_name);
    if (dispatch_all(poll, ((Found *)found)->events, Py_SIZE(found)) < 0)
        return NULL;
    Py_RETURN_NONE;
}

int poll_wait(PyObject *poll, double seconds, int (*waited)(void *), void *argument)
{
    struct epoll_event events[MOST_EVENTS];
    int count = wait_for(((Poll *)poll)->epoll, events, seconds);
    int said = waited(argument);
    if (count < 0 || said < 0)
        return -1;
    return said > 0 ? said : dispatch_all((Poll *)poll, events, count);
}

/* A signal that ends the wait is left to the interpreter, which looks between two instructions. */
int poll_look(PyObject *poll)
{
    struct epoll_event events[MOST_EVENTS];
    int count = epoll_wait(((Poll *)poll)->epoll, events, MOST_EVENTS, 0);
    if (count < 0 && errno != EINTR) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return count <= 0 ? 0 : dispatch_all((Poll *)poll, events, count);
}

bool is_poll(PyObject *object)
{
    return PyObject_TypeCheck(object, poll_type);
}

/* ---------------------------------------------------------------- the types */

/* Poll(epoll, ready, readers, writers, found_again, idle, busy) */
static PyObject *poll_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    int epoll;
    PyObject *ready, *readers, *writers, *found_again, *idle, *busy;
    if (!PyArg_ParseTuple(args, "iO!O!O!OOO:Poll", &epoll, ring_type, &ready, &PyDict_Type, &readers, &PyDict_Type,
                          &writers, &found_again, &idle, &busy))
        return NULL;
    Poll *poll = (Poll *)type->tp_alloc(type, 0);
    if (poll == NULL)
        return NULL;
    poll->epoll = epoll;
    poll->ready = (Ring *)Py_NewRef(ready);
    poll->readers = Py_NewRef(readers);
    poll->writers = Py_NewRef(writers);
    poll->found_again = Py_NewRef(found_again);
    poll->idle = Py_NewRef(idle);
    poll->busy = Py_NewRef(busy);
    return (PyObject *)poll;
}

static int poll_traverse(Poll *poll, visitproc visit, void *arg)
{
    Py_VISIT(poll->ready);
    Py_VISIT(poll->readers);
    Py_VISIT(poll->writers);
    Py_VISIT(poll->found_again);
    Py_VISIT(Py_TYPE(poll));
    return 0;
}

static void poll_dealloc(Poll *poll)
{
    PyTypeObject *type = Py_TYPE(poll);
    PyObject_GC_UnTrack(poll);
    Py_XDECREF(poll->ready);
    Py_XDECREF(poll->readers);
    Py_XDECREF(poll->writers);
    Py_XDECREF(poll->found_again);
    Py_XDECREF(poll->idle);
    Py_XDECREF(poll->busy);
    type->tp_free(poll);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"wait", (PyCFunction)wait, METH_O, "Wait for events, for a number of seconds; None: forever."},
    {"dispatch", (PyCFunction)dispatch, METH_O, "Make ready what the events belong to."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poll_slots[] = {
    {Py_tp_doc, "The poll of a loop."},
    {Py_tp_new, poll_new},
    {Py_tp_dealloc, poll_dealloc},
    {Py_tp_traverse, poll_traverse},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Slot found_slots[] = {
    {Py_tp_doc, "What a wait has found."},
    {Py_tp_dealloc, found_dealloc},
    {Py_sq_length, found_length},
    {0, NULL},
};

static PyType_Spec poll_spec = {
    .name = "hybridexec._core.compiled.Poll",
    .basicsize = sizeof(Poll),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = poll_slots,
};

static PyType_Spec found_spec = {
    .name = "hybridexec._core.compiled.Found",
    .basicsize = sizeof(Found),
    .itemsize = sizeof(struct epoll_event),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = found_slots,
};

int poll_exec(PyObject *module)
{
    found_type = add_type(module, &found_spec, NULL);
    poll_type = found_type == NULL ? NULL : add_type(module, &poll_spec, NULL);
    return poll_type == NULL ? -1 : 0;
}

#else

int poll_exec(PyObject *Py_UNUSED(module))
{
    return 0; /* there is no epoll here: the engine polls as the selector engine does */
}

bool is_poll(PyObject *Py_UNUSED(object))
{
    return false;
}

int poll_look(PyObject *Py_UNUSED(poll))
{
    return 0;
}

int poll_wait(PyObject *Py_UNUSED(poll), double Py_UNUSED(seconds), int (*Py_UNUSED(waited))(void *),
              void *Py_UNUSED(argument))
{
    return 0;
}

#endif
