/* Sums of upcalls and blocks, which any thread adds to; the GIL is their lock.  (observing/tally.py) */
#include "core.h"

typedef struct {
    PyObject_HEAD
    PyObject *counts; /* a dictionary: of each kind so many */
    long long most[2]; /* of the kinds that there is most of, so many more */
    double total, longest;
} Tally;

static PyObject *kinds[2]; /* these */

static PyTypeObject *tally_type;

static PyObject *tally_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *counts;
    if (!PyArg_ParseTuple(args, "O!:Tally", &PyDict_Type, &counts))
        return NULL;
    Tally *tally = (Tally *)type->tp_alloc(type, 0);
    if (tally != NULL)
        tally->counts = Py_NewRef(counts);
    return (PyObject *)tally;
}

static void tally_dealloc(Tally *tally)
{
    PyTypeObject *type = Py_TYPE(tally);
    PyObject_GC_UnTrack(tally);
    Py_CLEAR(tally->counts);
    type->tp_free(tally);
    Py_DECREF(type);
}

static int tally_traverse(Tally *tally, visitproc visit, void *arg)
{
    Py_VISIT(tally->counts);
    Py_VISIT(Py_TYPE(tally));
    return 0;
}

static int tally_clear(Tally *tally)
{
    Py_CLEAR(tally->counts);
    return 0;
}

void tally_know(PyObject *blocked, PyObject *unblocked)
{
    Py_XSETREF(kinds[0], Py_NewRef(blocked));
    Py_XSETREF(kinds[1], Py_NewRef(unblocked));
}

static int add_to(PyObject *counts, PyObject *kind, long long more)
{
    PyObject *former = PyDict_GetItemWithError(counts, kind);
    if (former == NULL && PyErr_Occurred() != NULL)
        return -1;
    long long count = former == NULL ? 0 : PyLong_AsLongLong(former);
    PyObject *next = PyErr_Occurred() != NULL ? NULL : PyLong_FromLongLong(count + more);
    int done = next == NULL ? -1 : PyDict_SetItem(counts, kind, next);
    Py_XDECREF(next);
    return done;
}

int tally_count(PyObject *object, PyObject *kind)
{
    for (int i = 0; i < 2; i++)
        if (kind == kinds[i]) {
            ((Tally *)object)->most[i]++;
            return 0;
        }
    return add_to(((Tally *)object)->counts, kind, 1);
}

void tally_add(PyObject *object, double seconds)
{
    Tally *tally = (Tally *)object;
    tally->total += seconds;
    if (seconds > tally->longest)
        tally->longest = seconds;
}

bool is_tally(PyObject *object)
{
    return Py_IS_TYPE(object, tally_type);
}

static PyObject *count(PyObject *tally, PyObject *kind)
{
    if (tally_count(tally, kind) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *add(PyObject *tally, PyObject *seconds)
{
    double value = PyFloat_AsDouble(seconds);
    if (PyErr_Occurred() != NULL)
        return NULL;
    tally_add(tally, value);
    Py_RETURN_NONE;
}

static PyObject *counts(Tally *tally, PyObject *Py_UNUSED(none))
{
    PyObject *counts = PyDict_Copy(tally->counts);
    for (int i = 0; counts != NULL && i < 2; i++)
        if (tally->most[i] > 0 && add_to(counts, kinds[i], tally->most[i]) < 0)
            Py_CLEAR(counts);
    return counts;
}

static PyMethodDef methods[] = {
    {"add", add, METH_O, "A block is over, after so many seconds."},
    {"count", count, METH_O, "There is one more of a kind."},
    {"counts", (PyCFunction)counts, METH_NOARGS, "How many there were of each kind."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"longest", Py_T_DOUBLE, offsetof(Tally, longest), Py_READONLY, "The longest block, in seconds."},
    {"total", Py_T_DOUBLE, offsetof(Tally, total), Py_READONLY, "The sum of all blocks, in seconds."},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "Sums of upcalls and blocks."},
    {Py_tp_new, tally_new},
    {Py_tp_dealloc, tally_dealloc},
    {Py_tp_traverse, tally_traverse},
    {Py_tp_clear, tally_clear},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.Tally",
    .basicsize = sizeof(Tally),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int tally_exec(PyObject *module)
{
    tally_type = add_type(module, &spec, NULL);
    return tally_type == NULL ? -1 : 0;
}
