/* The middle of a turn: steps are run one after the other, as long as there is nothing to look at between two.
 *
 * What is rare is left to Turns._run_batch (loop/turns.py), which calls this, and whose frame is the one that a step's
 * first frame returns to: a step that raises, one that has been without the loop (slow_exit), and a holder that has to
 * look up (due).
 */
#include "core.h"

#include <math.h>

static PyObject *idle, *taken_out;  /* FdState.IDLE, FdState.TAKEN_OUT */
static PyObject *step_ended;        /* protocol/lwp.STEP_ENDED */
static PyObject *plain_handle;      /* asyncio.Handle */
static PyObject *run_name, *put_back_name, *cancelled_name, *context_name, *callback_name, *args_name;

/* Call a callback in a context.  Returns its result. */
static PyObject *call(PyObject *context, PyObject *callback, PyObject *args)
{
    if (!PyTuple_CheckExact(args))
        return PyErr_Format(PyExc_TypeError, "a handle's _args are a tuple, not %.100s", Py_TYPE(args)->tp_name);
    if (PyContext_Enter(context) < 0)
        return NULL;
    PyObject *result =
        PyObject_Vectorcall(callback, ((PyTupleObject *)args)->ob_item, (size_t)PyTuple_GET_SIZE(args), NULL);
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
    if (fields->state == taken_out) {
        PyObject *done = PyObject_CallMethodOneArg(fields->handle.loop, put_back_name, handle);
        if (done == NULL)
            return -1;
        Py_DECREF(done);
    }
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
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int is_cancelled(PyObject *object, Handle *handle)
{
    if (handle != NULL)
        return handle->cancelled;
    PyObject *cancelled = PyObject_GetAttr(object, cancelled_name);
    int is = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    return is;
}

/* Whether the batch is over; -1 with an exception. */
static int run_batch(LwpFields *lwp, RecordFields *record, PyObject *loop, Ring *ready, PyObject *batch)
{
    for (;;) {
        PyObject *number = PyIter_Next(batch);
        if (number == NULL)
            return PyErr_Occurred() == NULL ? 1 : -1;
        Py_DECREF(number);
        PyObject *object = ring_popleft(ready);
        if (object == NULL) {
            PyErr_SetString(PyExc_IndexError, "a step of the batch is missing");
            return -1;
        }
        Handle *handle = handle_of(object);
        int cancelled = is_cancelled(object, handle);
        if (cancelled > 0) {
            Py_DECREF(object);
            continue;
        }
        Py_XSETREF(lwp->handle, object);
        if (cancelled < 0 || run_step(object, handle) < 0 || loop_flush(loop) < 0)
            return -1;
        if (lwp->slow_exit)
            return 0;
        Py_XSETREF(lwp->handle, Py_NewRef(step_ended)); /* its finalizers may block */
        if (record->due < INFINITY && now() >= record->due)
            return 0;
    }
}

/* run_steps(lwp, record, loop, batch): whether the batch is over; if not, there is something to look at.
 *
 * What a step raises comes up, and the step is LWP.handle then. */
static PyObject *run_steps(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyObject_TypeCheck(args[0], lwp_fields_type) ||
        !PyObject_TypeCheck(args[1], record_fields_type) || !PyIter_Check(args[3]))
        return PyErr_Format(PyExc_TypeError, "an LWP, a record, a loop and an iterator are expected");
    Ring *ready = loop_ready(args[2]);
    if (ready == NULL)
        return NULL;
    Py_INCREF(ready);
    int over = run_batch((LwpFields *)args[0], (RecordFields *)args[1], args[2], ready, args[3]);
    Py_DECREF(ready);
    return over < 0 ? NULL : PyBool_FromLong(over);
}

/* know(idle, taken_out, step_ended, plain_handle): what this needs of the Python code beside it. */
static PyObject *know(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *known[4];
    if (!PyArg_ParseTuple(args, "OOOO!:know", &known[0], &known[1], &known[2], &PyType_Type, &known[3]))
        return NULL;
    Py_XSETREF(idle, Py_NewRef(known[0]));
    Py_XSETREF(taken_out, Py_NewRef(known[1]));
    Py_XSETREF(step_ended, Py_NewRef(known[2]));
    Py_XSETREF(plain_handle, Py_NewRef(known[3]));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"run_steps", (PyCFunction)(void (*)(void))run_steps, METH_FASTCALL,
     "Run the steps of a batch until there is something to look at."},
    {"know", know, METH_VARARGS, "Make objects of the Python code known."},
    {NULL, NULL, 0, NULL},
};

int steps_exec(PyObject *module)
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
