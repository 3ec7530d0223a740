/* The timers of a loop: a binary heap whose members know their place, so that one that is cancelled leaves at once.
 *
 * A server makes and cancels a timer for each request (keep-alive).  asyncio's heap keeps those until they are swept.
 */
#include "core.h"

#include <math.h>

struct Timers {
    PyObject_HEAD
    PyObject **heap;
    Py_ssize_t count, capacity;
};

PyTypeObject *timers_type;

static void put(Timers *timers, Py_ssize_t place, PyObject *timer)
{
    timers->heap[place] = timer;
    timer_of(timer)->place = place;
}

static double when_at(Timers *timers, Py_ssize_t place)
{
    return timer_of(timers->heap[place])->when;
}

static void sift_up(Timers *timers, Py_ssize_t place, PyObject *timer)
{
    double when = timer_of(timer)->when;
    while (place > 0) {
        Py_ssize_t parent = (place - 1) / 2;
        if (when_at(timers, parent) <= when)
            break;
        put(timers, place, timers->heap[parent]);
        place = parent;
    }
    put(timers, place, timer);
}

static void sift_down(Timers *timers, Py_ssize_t place, PyObject *timer)
{
    double when = timer_of(timer)->when;
    for (;;) {
        Py_ssize_t child = 2 * place + 1;
        if (child >= timers->count)
            break;
        if (child + 1 < timers->count && when_at(timers, child + 1) < when_at(timers, child))
            child++;
        if (when <= when_at(timers, child))
            break;
        put(timers, place, timers->heap[child]);
        place = child;
    }
    put(timers, place, timer);
}

int timers_push(Timers *timers, PyObject *timer)
{
    if (timers->count == timers->capacity) {
        Py_ssize_t capacity = timers->capacity == 0 ? 64 : 2 * timers->capacity;
        PyObject **heap = PyMem_Realloc(timers->heap, (size_t)capacity * sizeof(PyObject *));
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        timers->heap = heap;
        timers->capacity = capacity;
    }
    timer_of(timer)->timers = timers;
    sift_up(timers, timers->count++, Py_NewRef(timer));
    return 0;
}

/* Take a timer out.  The heap's reference becomes the caller's. */
static void take_out(PyObject *object)
{
    Timer *timer = timer_of(object);
    Timers *timers = timer->timers;
    PyObject *last = timers->heap[--timers->count];
    timer->timers = NULL;
    if (last == object)
        return;
    Py_ssize_t place = timer->place;
    if (place > 0 && when_at(timers, (place - 1) / 2) > timer_of(last)->when)
        sift_up(timers, place, last);
    else
        sift_down(timers, place, last);
}

void timers_remove(PyObject *timer)
{
    take_out(timer);
    Py_DECREF(timer);
}

static int timers_traverse(Timers *timers, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; i < timers->count; i++)
        Py_VISIT(timers->heap[i]);
    Py_VISIT(Py_TYPE(timers));
    return 0;
}

static int timers_clear(Timers *timers)
{
    while (timers->count > 0) { /* dropping one may push others */
        PyObject *timer = timers->heap[timers->count - 1];
        take_out(timer);
        Py_DECREF(timer);
    }
    return 0;
}

static void timers_dealloc(Timers *timers)
{
    PyTypeObject *type = Py_TYPE(timers);
    PyObject_GC_UnTrack(timers);
    timers_clear(timers);
    PyMem_Free(timers->heap);
    type->tp_free(timers);
    Py_DECREF(type);
}

static PyObject *push(Timers *timers, PyObject *timer)
{
    if (!Py_IS_TYPE(timer, timer_type) || timer_of(timer)->timers != NULL)
        return PyErr_Format(PyExc_TypeError, "a Timer that is in no heap is expected, not %.100s", Py_TYPE(timer)->tp_name);
    if (timers_push(timers, timer) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *clear(Timers *timers, PyObject *Py_UNUSED(none))
{
    timers_clear(timers);
    Py_RETURN_NONE;
}

/* Each timer is in the one or in the other, whatever is raised. */
int timers_move_due(Timers *timers, double end, Ring *ready)
{
    while (timers->count > 0 && !(when_at(timers, 0) >= end)) { /* also NaN is due, as on asyncio */
        PyObject *timer = timers->heap[0];
        if (ring_append(ready, timer) < 0)
            return -1;
        timers_remove(timer);
    }
    return 0;
}

double timers_first(const Timers *timers)
{
    return timers->count == 0 ? INFINITY : timer_of(timers->heap[0])->when;
}

static PyObject *move_due(Timers *timers, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !Py_IS_TYPE(args[1], ring_type))
        return PyErr_Format(PyExc_TypeError, "a time and a Ring are expected");
    double end = PyFloat_AsDouble(args[0]);
    if ((end == -1.0 && PyErr_Occurred() != NULL) || timers_move_due(timers, end, (Ring *)args[1]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static Py_ssize_t size(Timers *timers)
{
    return timers->count;
}

static PyObject *item_at(Timers *timers, Py_ssize_t index)
{
    if (index < 0 || index >= timers->count)
        return PyErr_Format(PyExc_IndexError, "timer index out of range");
    return Py_NewRef(timers->heap[index]);
}

static PyMethodDef methods[] = {
    {"push", (PyCFunction)push, METH_O, "Add a timer."},
    {"clear", (PyCFunction)clear, METH_NOARGS, "Remove all timers."},
    {"move_due", (PyCFunction)(void (*)(void))move_due, METH_FASTCALL,
     "Move the timers that are due before a time to a ready queue, the earliest first."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The timers of a loop, a sequence whose first item is due first."},
    {Py_tp_dealloc, timers_dealloc},
    {Py_tp_traverse, timers_traverse},
    {Py_tp_clear, timers_clear},
    {Py_tp_methods, methods},
    {Py_sq_length, size},
    {Py_sq_item, item_at},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "hybridexec._core.compiled.Timers",
    .basicsize = sizeof(Timers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = slots,
};

int timers_exec(PyObject *module)
{
    timers_type = add_type(module, &spec, NULL);
    return timers_type == NULL ? -1 : 0;
}
