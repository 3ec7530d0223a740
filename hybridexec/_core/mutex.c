/* The mutex of a record: an RLock, as _thread's is, which compiled code takes without a call.
 *
 * The GIL guards the owner and the count.  Whoever does not own the mutex learns so from the owner alone: nobody else
 * writes the identity of its thread there.
 */
#include "core.h"

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock;
    unsigned long owner; /* 0: nobody */
    unsigned long count;
} Mutex;

static PyTypeObject *mutex_type;

static PyObject *mutex_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) != 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0))
        return PyErr_Format(PyExc_TypeError, "Mutex() takes no arguments");
    Mutex *mutex = (Mutex *)type->tp_alloc(type, 0);
    if (mutex != NULL && (mutex->lock = PyThread_allocate_lock()) == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "can't allocate lock");
        Py_CLEAR(mutex);
    }
    return (PyObject *)mutex;
}

static void mutex_dealloc(PyObject *self)
{
    Mutex *mutex = (Mutex *)self;
    PyTypeObject *type = Py_TYPE(self);
    if (mutex->lock != NULL) {
        if (mutex->count > 0) /* a lock that is held must not be freed */
            PyThread_release_lock(mutex->lock);
        PyThread_free_lock(mutex->lock);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

bool is_mutex(PyObject *object)
{
    return Py_IS_TYPE(object, mutex_type);
}

bool mutex_is_owned(PyObject *object)
{
    Mutex *mutex = (Mutex *)object;
    return mutex->count > 0 && mutex->owner == PyThread_get_thread_ident();
}

static void taken(Mutex *mutex)
{
    mutex->owner = PyThread_get_thread_ident();
    mutex->count = 1;
}

bool mutex_try(PyObject *object)
{
    Mutex *mutex = (Mutex *)object;
    if (mutex_is_owned(object)) {
        mutex->count++;
        return true;
    }
    if (mutex->count > 0 || !PyThread_acquire_lock(mutex->lock, NOWAIT_LOCK))
        return false;
    taken(mutex);
    return true;
}

int mutex_release(PyObject *object)
{
    Mutex *mutex = (Mutex *)object;
    if (!mutex_is_owned(object)) {
        PyErr_SetString(PyExc_RuntimeError, "cannot release un-acquired lock");
        return -1;
    }
    if (--mutex->count == 0) {
        mutex->owner = 0;
        PyThread_release_lock(mutex->lock);
    }
    return 0;
}

/* Signal handlers run in between, and what one raises ends the wait. */
static int wait_for(Mutex *mutex)
{
    for (;;) {
        PyLockStatus status;
        Py_BEGIN_ALLOW_THREADS
        status = PyThread_acquire_lock_timed(mutex->lock, -1, 1);
        Py_END_ALLOW_THREADS
        if (status == PY_LOCK_ACQUIRED)
            return (taken(mutex), 0);
        if (Py_MakePendingCalls() < 0)
            return -1;
    }
}

/* Whether it is taken. */
static PyObject *take(PyObject *mutex, bool waits)
{
    bool has = mutex_try(mutex);
    if (!has && waits && wait_for((Mutex *)mutex) < 0)
        return NULL;
    return PyBool_FromLong(has || waits);
}

static PyObject *acquire(PyObject *mutex, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"blocking", NULL};
    int waits = true;
    return PyArg_ParseTupleAndKeywords(args, kwargs, "|p:acquire", names, &waits) ? take(mutex, waits) : NULL;
}

static PyObject *enter(PyObject *mutex, PyObject *Py_UNUSED(none))
{
    return take(mutex, true);
}

static PyObject *release(PyObject *mutex, PyObject *Py_UNUSED(none))
{
    return mutex_release(mutex) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *is_owned(PyObject *mutex, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(mutex_is_owned(mutex));
}

static PyObject *leave(PyObject *mutex, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count))
{
    return release(mutex, NULL);
}

static PyMethodDef methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))acquire, METH_VARARGS | METH_KEYWORDS,
     "Take it; wait for it, unless told otherwise.  Whether the thread has it."},
    {"__enter__", enter, METH_NOARGS, "Take it."},
    {"release", release, METH_NOARGS, "Give it up once."},
    {"__exit__", (PyCFunction)(void (*)(void))leave, METH_FASTCALL, "Give it up once."},
    {"_is_owned", is_owned, METH_NOARGS, "Whether it is the calling thread's."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The mutex of a record."},
    {Py_tp_new, mutex_new},
    {Py_tp_dealloc, mutex_dealloc},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.Mutex",
    .basicsize = sizeof(Mutex),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int mutex_exec(PyObject *module)
{
    mutex_type = add_type(module, &spec, NULL);
    return mutex_type == NULL ? -1 : 0;
}
