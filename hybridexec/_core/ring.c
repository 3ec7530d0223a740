/* The ready queue: what asyncio's loop has a deque for, with the methods of one that are used of it.
 *
 * A buffer whose capacity is a power of two; head and tail only grow, and wrap around with the unsigned arithmetic.
 */
#include "core.h"

PyTypeObject *ring_type;

enum { FIRST_CAPACITY = 256 };

static int grow(Ring *ring)
{
    size_t capacity = ring->mask + 1;
    PyObject **items = PyMem_New(PyObject *, 2 * capacity);
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    size_t count = ring_length(ring);
    for (size_t i = 0; i < count; i++)
        items[i] = ring->items[(ring->head + i) & ring->mask];
    PyMem_Free(ring->items);
    ring->items = items;
    ring->head = 0;
    ring->tail = count;
    ring->mask = 2 * capacity - 1;
    return 0;
}

int ring_append(Ring *ring, PyObject *item)
{
    if (ring_length(ring) > ring->mask && grow(ring) < 0)
        return -1;
    ring->items[ring->tail++ & ring->mask] = Py_NewRef(item);
    return 0;
}

static PyObject *ring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (PyTuple_GET_SIZE(args) || (kwargs != NULL && PyDict_GET_SIZE(kwargs)))
        return PyErr_Format(PyExc_TypeError, "Ring takes no arguments");
    PyObject **items = PyMem_New(PyObject *, FIRST_CAPACITY);
    if (items == NULL)
        return PyErr_NoMemory();
    Ring *ring = (Ring *)type->tp_alloc(type, 0);
    if (ring == NULL) {
        PyMem_Free(items);
        return NULL;
    }
    ring->items = items;
    ring->mask = FIRST_CAPACITY - 1;
    return (PyObject *)ring;
}

static int ring_traverse(Ring *ring, visitproc visit, void *arg)
{
    for (size_t i = ring->head; i != ring->tail; i++)
        Py_VISIT(ring->items[i & ring->mask]);
    Py_VISIT(Py_TYPE(ring));
    return 0;
}

static int ring_clear(Ring *ring)
{
    PyObject *item;
    while ((item = ring_popleft(ring)) != NULL) /* dropping one may append others */
        Py_DECREF(item);
    return 0;
}

static void ring_dealloc(Ring *ring)
{
    PyTypeObject *type = Py_TYPE(ring);
    PyObject_GC_UnTrack(ring);
    ring_clear(ring);
    PyMem_Free(ring->items);
    type->tp_free(ring);
    Py_DECREF(type);
}

static PyObject *append(Ring *ring, PyObject *item)
{
    if (ring_append(ring, item) < 0)
        return NULL;
    Py_RETURN_NONE;
}

int ring_appendleft(Ring *ring, PyObject *item)
{
    if (ring_length(ring) > ring->mask && grow(ring) < 0)
        return -1;
    ring->items[--ring->head & ring->mask] = Py_NewRef(item);
    return 0;
}

static PyObject *appendleft(Ring *ring, PyObject *item)
{
    if (ring_appendleft(ring, item) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *popleft(Ring *ring, PyObject *Py_UNUSED(none))
{
    PyObject *item = ring_popleft(ring);
    return item == NULL ? PyErr_Format(PyExc_IndexError, "pop from an empty ring") : item;
}

static PyObject *pop(Ring *ring, PyObject *Py_UNUSED(none))
{
    if (ring_length(ring) == 0)
        return PyErr_Format(PyExc_IndexError, "pop from an empty ring");
    return ring->items[--ring->tail & ring->mask];
}

static PyObject *clear(Ring *ring, PyObject *Py_UNUSED(none))
{
    ring_clear(ring);
    Py_RETURN_NONE;
}

static PyObject *as_list(Ring *ring)
{
    size_t count = ring_length(ring);
    PyObject *list = PyList_New((Py_ssize_t)count);
    if (list != NULL && ring_length(ring) == count) { /* the collector may have run finalizers */
        for (size_t i = 0; i < count; i++)
            PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(ring->items[(ring->head + i) & ring->mask]));
        return list;
    }
    Py_XDECREF(list);
    return list == NULL ? NULL : as_list(ring);
}

/* Over a copy: what is done with the items may change the ring. */
static PyObject *iterate(Ring *ring)
{
    PyObject *list = as_list(ring);
    if (list == NULL)
        return NULL;
    PyObject *iterator = PyObject_GetIter(list);
    Py_DECREF(list);
    return iterator;
}

static PyObject *represent(Ring *ring)
{
    int entered = Py_ReprEnter((PyObject *)ring);
    if (entered != 0)
        return entered > 0 ? PyUnicode_FromString("Ring([...])") : NULL;
    PyObject *list = as_list(ring), *text = NULL;
    if (list != NULL) {
        text = PyUnicode_FromFormat("Ring(%R)", list);
        Py_DECREF(list);
    }
    Py_ReprLeave((PyObject *)ring);
    return text;
}

static Py_ssize_t size(Ring *ring)
{
    return (Py_ssize_t)ring_length(ring);
}

static PyObject *item_at(Ring *ring, Py_ssize_t index)
{
    if (index < 0 || (size_t)index >= ring_length(ring))
        return PyErr_Format(PyExc_IndexError, "ring index out of range");
    return Py_NewRef(ring->items[(ring->head + (size_t)index) & ring->mask]);
}

static PyMethodDef methods[] = {
    {"append", (PyCFunction)append, METH_O, "Add an item on the right."},
    {"appendleft", (PyCFunction)appendleft, METH_O, "Add an item on the left."},
    {"popleft", (PyCFunction)popleft, METH_NOARGS, "Remove and return the leftmost item."},
    {"pop", (PyCFunction)pop, METH_NOARGS, "Remove and return the rightmost item."},
    {"clear", (PyCFunction)clear, METH_NOARGS, "Remove all items."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The ready queue of a loop: a deque with fewer methods."},
    {Py_tp_new, ring_new},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_traverse, ring_traverse},
    {Py_tp_clear, ring_clear},
    {Py_tp_iter, iterate},
    {Py_tp_repr, represent},
    {Py_tp_methods, methods},
    {Py_sq_length, size},
    {Py_sq_item, item_at},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.Ring",
    .basicsize = sizeof(Ring),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int ring_exec(PyObject *module)
{
    ring_type = add_type(module, &spec, NULL);
    return ring_type == NULL ? -1 : 0;
}
