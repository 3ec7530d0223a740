/* What follows a loop, in the plain case: nothing does but the current task.
 *
 * The text is Following.detach and attach (following/following.py).  Each condition here is one of theirs, and whatever is
 * not plain is left to them, before anything has changed.
 */
#include "core.h"

/* What this needs of the Python code beside it (following_know). */
static PyObject *current_tasks, *tasks, *away, *gettrace, *getprofile, *slow_detach, *slow_attach;

static PyObject *luggage_name, *tracers_name, *tracer_name, *profiler_name, *untold_name, *rlocks_name, *held_name;
static PyObject *values_name, *marks_name, *leaver_name, *kept_name, *conversations_name, *away_name, *wardrobe_name;
static PyObject *worn_name, *attributes_name, *own_attributes_name, *task_name, *identity_name, *loop_name, *look_name;
static PyObject *thread_id_name, *send_queued_name, *self_name, *sniffio_name, *thread_local_name;
static PyObject *name_name;
static PyObject *with_step; /* ("with_step",) */

/* ---------------------------------------------------------------- conditions
 *
 * 1 if so, 0 if not, -1 with an exception.
 */

/* Whether a container, an attribute of an attribute, is empty. */
static int is_empty_at(PyObject *object, PyObject *part_name, PyObject *name)
{
    PyObject *part = PyObject_GetAttr(object, part_name);
    int is = part == NULL ? -1 : is_false_attribute(part, name);
    Py_XDECREF(part);
    return is;
}

static int says_none(PyObject *function)
{
    PyObject *result = PyObject_CallNoArgs(function);
    Py_XDECREF(result);
    return result == NULL ? -1 : result == Py_None;
}

/* Whether the loop has no tracer and no profiler, and the calling thread has none, either. */
static int is_untraced(PyObject *following)
{
    PyObject *tracers = PyObject_GetAttr(following, tracers_name);
    if (tracers == NULL)
        return -1;
    int is = is_attribute(tracers, tracer_name, Py_None);
    if (is > 0)
        is = is_attribute(tracers, profiler_name, Py_None);
    Py_DECREF(tracers);
    if (is > 0)
        is = says_none(gettrace);
    return is > 0 ? says_none(getprofile) : is;
}

/* Whether nothing of the thread's was there when it gave the loop up the last time: luggage.tracers is (None, None). */
static int was_untraced(PyObject *luggage)
{
    PyObject *known = PyObject_GetAttr(luggage, tracers_name);
    if (known == NULL)
        return -1;
    int is = PyTuple_Check(known) && PyTuple_GET_SIZE(known) == 2 && PyTuple_GET_ITEM(known, 0) == Py_None &&
             PyTuple_GET_ITEM(known, 1) == Py_None;
    Py_DECREF(known);
    return is;
}

/* Whether the LWP's step is one of a task. */
static int is_step_of_task(LwpFields *lwp)
{
    Handle *handle = lwp->handle == NULL || fd_fields_of(lwp->handle) != NULL ? NULL : handle_of(lwp->handle);
    if (handle == NULL || handle->callback == NULL)
        return 0;
    PyObject *owner = PyObject_GetAttr(handle->callback, self_name);
    if (owner == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    int is = PySequence_Contains(tasks, (PyObject *)Py_TYPE(owner));
    Py_DECREF(owner);
    return is;
}

/* Whether the thread-locals have no mark of a step that has left (following/marks.py). */
static int is_unmarked(void)
{
    PyObject *module = PyImport_GetModule(sniffio_name);
    PyObject *local = module == NULL ? NULL : PyObject_GetAttr(module, thread_local_name);
    int is = local == NULL ? 0 : is_attribute(local, name_name, Py_None);
    if (is <= 0 && PyErr_Occurred() != NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear(); /* it is being imported */
        is = 0;
    }
    Py_XDECREF(local);
    Py_XDECREF(module);
    return PyErr_Occurred() != NULL ? -1 : is;
}

/* ---------------------------------------------------------------- detach */

static int detaches_plainly(PyObject *following, LwpFields *lwp, PyObject *luggage, bool leaves_step)
{
    if (lwp->ident != PyThread_get_thread_ident())
        return 0;
    int is = was_untraced(luggage);
    if (is > 0)
        is = is_untraced(following);
    if (is > 0 && leaves_step)
        is = is_step_of_task(lwp);
    if (is > 0 && leaves_step)
        is = is_empty_at(following, rlocks_name, held_name);
    return is;
}

/* Its task is the loop's current one no longer, and what marks of it there are will be looked for. */
static int put_down(PyObject *following, LwpFields *lwp, PyObject *luggage)
{
    PyObject *loop = PyObject_GetAttr(following, loop_name), *marks = NULL, *task = NULL;
    int done = loop == NULL ? -1 : drop(PyObject_CallMethodNoArgs(loop, send_queued_name));
    if (done == 0)
        done = is_attribute(following, values_name, Py_None);
    if (done == 0 && (done = PyDict_Contains(PyImport_GetModuleDict(), sniffio_name)) > 0) {
        marks = PyObject_GetAttr(following, marks_name);
        done = marks == NULL ? -1 : PyObject_SetAttr(marks, leaver_name, (PyObject *)lwp);
    }
    if (done >= 0 && (task = Py_XNewRef(PyDict_GetItemWithError(current_tasks, loop))) != NULL &&
        PyObject_SetAttr(luggage, task_name, task) == 0)
        PyDict_DelItem(current_tasks, loop);
    Py_XDECREF(task);
    Py_XDECREF(marks);
    Py_XDECREF(loop);
    return PyErr_Occurred() != NULL ? -1 : 0;
}

/* ---------------------------------------------------------------- attach */

static int attaches_plainly(PyObject *following, LwpFields *lwp, PyObject *luggage, bool has_step, PyObject *leaver)
{
    if (lwp->ident != PyThread_get_thread_ident())
        return 0;
    int is = 1;
    if (lwp->handle == Py_None) { /* it may have to be dressed */
        PyObject *values = PyObject_GetAttr(following, values_name);
        PyObject *wardrobe = values == NULL ? NULL : PyObject_GetAttr(luggage, wardrobe_name);
        is = wardrobe == NULL ? -1 : is_attribute(wardrobe, worn_name, values);
        Py_XDECREF(wardrobe);
        Py_XDECREF(values);
    }
    if (is > 0)
        is = is_empty_at(following, rlocks_name, held_name);
    if (is > 0)
        is = is_empty_at(following, tracers_name, untold_name);
    if (is > 0)
        is = is_untraced(following);
    if (is > 0 && has_step)
        is = is_empty_at(following, conversations_name, away_name);
    if (is > 0 && has_step)
        is = is_empty_at(following, marks_name, kept_name);
    if (is > 0 && leaver != Py_None && leaver != (PyObject *)lwp)
        is = lwp->region == away ? 0 : is_unmarked();
    if (is > 0) {
        PyObject *known = PyObject_GetAttr(following, attributes_name);
        PyObject *values = known == NULL ? NULL : PyObject_GetAttr(known, values_name);
        is = values == NULL ? -1 : is_attribute(luggage, own_attributes_name, values);
        Py_XDECREF(values);
        Py_XDECREF(known);
    }
    return is;
}

static int pick_up(PyObject *following, PyObject *luggage, bool has_step)
{
    PyObject *loop = PyObject_GetAttr(following, loop_name);
    PyObject *identity = loop == NULL ? NULL : PyObject_GetAttr(luggage, identity_name), *task = NULL;
    int done = identity == NULL ? -1 : PyObject_SetAttr(loop, thread_id_name, identity);
    if (done == 0)
        done = drop(PyObject_CallMethodNoArgs(following, look_name));
    if (done == 0 && has_step) {
        task = PyObject_GetAttr(luggage, task_name);
        done = task == NULL ? -1 : 0;
        if (done == 0 && task != Py_None && (done = PyDict_SetItem(current_tasks, loop, task)) == 0)
            done = PyObject_SetAttr(luggage, task_name, Py_None);
    }
    Py_XDECREF(task);
    Py_XDECREF(identity);
    Py_XDECREF(loop);
    return done;
}

/* Returns whether it was plain; -1 with an exception. */
static int attach_if_plain(PyObject *following, LwpFields *lwp, PyObject *luggage, bool has_step)
{
    PyObject *marks = PyObject_GetAttr(following, marks_name);
    PyObject *leaver = marks == NULL ? NULL : PyObject_GetAttr(marks, leaver_name);
    int is = leaver == NULL ? -1 : attaches_plainly(following, lwp, luggage, has_step, leaver);
    if (is > 0 && leaver != Py_None && PyObject_SetAttr(marks, leaver_name, Py_None) < 0)
        is = -1;
    Py_XDECREF(leaver);
    Py_XDECREF(marks);
    return is > 0 && pick_up(following, luggage, has_step) < 0 ? -1 : is;
}

/* ---------------------------------------------------------------- for Python */

/* The arguments are (following, lwp, *, with_step).  Returns the LWP, borrowed; NULL: the Python code says what it thinks of
 * them. */
static LwpFields *parse(PyObject *const *args, Py_ssize_t count, PyObject *names, bool *is_with_step)
{
    if (count != 2 || !PyObject_TypeCheck(args[1], lwp_fields_type) || names == NULL || PyTuple_GET_SIZE(names) != 1 ||
        PyUnicode_Compare(PyTuple_GET_ITEM(names, 0), PyTuple_GET_ITEM(with_step, 0)) != 0 || !PyBool_Check(args[2]))
        return NULL;
    *is_with_step = args[2] == Py_True;
    return (LwpFields *)args[1];
}

static PyObject *detach(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    bool leaves_step = false;
    LwpFields *lwp = parse(args, count, names, &leaves_step);
    PyObject *luggage = lwp == NULL ? NULL : PyObject_GetAttr((PyObject *)lwp, luggage_name);
    int is = lwp == NULL ? 0 : luggage == NULL ? -1 : detaches_plainly(args[0], lwp, luggage, leaves_step);
    if (is > 0 && leaves_step && put_down(args[0], lwp, luggage) < 0)
        is = -1;
    Py_XDECREF(luggage);
    if (is == 0)
        return PyObject_Vectorcall(slow_detach, args, (size_t)count, names);
    return is < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *attach(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    bool has_step = false;
    LwpFields *lwp = parse(args, count, names, &has_step);
    PyObject *luggage = lwp == NULL ? NULL : PyObject_GetAttr((PyObject *)lwp, luggage_name);
    int is = lwp == NULL ? 0 : luggage == NULL ? -1 : attach_if_plain(args[0], lwp, luggage, has_step);
    Py_XDECREF(luggage);
    if (is == 0)
        return PyObject_Vectorcall(slow_attach, args, (size_t)count, names);
    return is < 0 ? NULL : Py_NewRef(Py_None);
}

/* following_know(current_tasks, tasks, away, gettrace, getprofile, detach, attach) */
static PyObject *following_know(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject **const slots[] = {&current_tasks, &tasks, &away, &gettrace, &getprofile, &slow_detach, &slow_attach};
    enum { COUNT = sizeof slots / sizeof *slots };
    PyObject *known[COUNT];
    if (!PyArg_ParseTuple(args, "O!O!OOOOO:following_know", &PyDict_Type, &known[0], &PyTuple_Type, &known[1], &known[2],
                          &known[3], &known[4], &known[5], &known[6]))
        return NULL;
    for (int i = 0; i < COUNT; i++)
        Py_XSETREF(*slots[i], Py_NewRef(known[i]));
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"detach", (PyCFunction)(void (*)(void))detach, METH_FASTCALL | METH_KEYWORDS,
     "detach(following, lwp, *, with_step)"},
    {"attach", (PyCFunction)(void (*)(void))attach, METH_FASTCALL | METH_KEYWORDS,
     "attach(following, lwp, *, with_step)"},
    {"following_know", following_know, METH_VARARGS, "Make objects of the Python code known."},
    {NULL, NULL, 0, NULL},
};

int following_exec(PyObject *module)
{
    static const Name names[] = {
        {&luggage_name, "luggage"},
        {&tracers_name, "tracers"},
        {&tracer_name, "_tracer"},
        {&profiler_name, "_profiler"},
        {&untold_name, "_untold"},
        {&rlocks_name, "rlocks"},
        {&held_name, "held"},
        {&values_name, "values"},
        {&marks_name, "_marks"},
        {&leaver_name, "leaver"},
        {&kept_name, "kept"},
        {&conversations_name, "conversations"},
        {&away_name, "away"},
        {&wardrobe_name, "wardrobe"},
        {&worn_name, "worn"},
        {&attributes_name, "_attributes"},
        {&own_attributes_name, "attributes"},
        {&task_name, "task"},
        {&identity_name, "identity"},
        {&loop_name, "_loop"},
        {&look_name, "look"},
        {&thread_id_name, "_thread_id"},
        {&send_queued_name, "_send_queued"},
        {&self_name, "__self__"},
        {&sniffio_name, "sniffio"},
        {&thread_local_name, "thread_local"},
        {&name_name, "name"},
        {NULL, NULL},
    };
    if (intern(names) < 0 || (with_step = Py_BuildValue("(s)", "with_step")) == NULL)
        return -1;
    return PyModule_AddFunctions(module, functions);
}
