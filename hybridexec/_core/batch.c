/* A batch: a number for each step that is still to be run before the next poll, as iter(range(count)) is one.
 *
 * Whoever takes a step from the queue takes a number first: so the batch is the same to all LWPs that run it one after
 * the other.  (Record.batch in protocol/record.py)
 */
#include "core.h"

PyTypeObject *batch_type;

PyObject *batch_new(size_t count)
{
    Batch *batch = PyObject_New(Batch, batch_type);
    if (batch != NULL)
        batch->left = count;
    return (PyObject *)batch;
}

static PyObject *batch_make(PyTypeObject *Py_UNUSED(type), PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "n:Batch", &count))
        return NULL;
    if (count < 0)
        return PyErr_Format(PyExc_ValueError, "count must be 0 or more, not %zd", count);
    return batch_new((size_t)count);
}

static void batch_dealloc(Batch *batch)
{
    PyTypeObject *type = Py_TYPE(batch);
    PyObject_Free(batch);
    Py_DECREF(type);
}

static PyObject *batch_next(Batch *batch)
{
    return batch->left == 0 ? NULL : PyLong_FromSize_t(--batch->left);
}

static PyObject *length_hint(Batch *batch, PyObject *Py_UNUSED(none))
{
    return PyLong_FromSize_t(batch->left);
}

static PyMethodDef methods[] = {
    {"__length_hint__", (PyCFunction)length_hint, METH_NOARGS, "How many are left."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "A number for each step that is still to be run before the next poll."},
    {Py_tp_new, batch_make},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, batch_next},
    {Py_tp_methods, methods},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.Batch",
    .basicsize = sizeof(Batch),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int batch_exec(PyObject *module)
{
    batch_type = add_type(module, &spec, NULL);
    return batch_type == NULL ? -1 : 0;
}
